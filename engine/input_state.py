"""What a request feeds the model at positions that are not settled: the mask's embedding, or a mixture of embeddings.

A decoder throws away what the model thought of every position that it did not reveal. An input state feeds it into the
next pass. With E the embeddings, m the mask, z a position's logits in the last pass, and p = softmax(z / temperature)
over all V tokens of the vocabulary:

    residual     masks get (1 - a) E[m] + a pE, with a = alpha H(p) / ln V.
                 Residual Context Diffusion, arXiv 2601.22954; for models that were trained so
    iter-smooth  masks get E[m] + w pE, with w = min(initial + growth k, weight) after the request's pass k = 0, 1, ...
                 dInfer, arXiv 2510.08666, IterationSmooth; for any model. Its falling threshold is a scheduler's affair
    soft         tokens x that were revealed in this block get s (c |E[x]| + (1 - c) |E[m]|) / |s|, with
                 s = c E[x] + (1 - c) E[m] and c the last pass's probability of x.
                 DMax, arXiv 2604.08302, with its top-k of 1; for models that were trained so

It begins anew with each block, whose first pass sees plain masks, and where a token is revealed or taken back. What
stands outside of the block is fed as it is, so keys and values that are kept of it are exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from reprlib import repr as show
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.engine.errors import RequestError
from unmask.errors import unknown
from unmask.models.loading import Model
from unmask.schedulers import OptionError, option
from unmask.schedulers.options import parse_options
from unmask.schedulers.registry import NoOptions, split_text

TINY = 1e-6  # keeps DMax's norm from being divided by 0


class Share(NamedTuple):
    """How much of pE one row is fed at its masks.

    scale       of pE; times H(p) / ln V if `by_entropy`, and the mask's embedding then has the rest
    """

    temperature: float
    scale: float
    by_entropy: bool


@dataclass(frozen=True)
class Residual:
    alpha: float = option(1.0, "scales the share of the mixture at every mask", minimum=0.0, maximum=1.0)
    temperature: float = option(1.0, "divides the logits before the mixture and its entropy", minimum=0.01)

    def share(self, step: int) -> Share:
        return Share(self.temperature, self.alpha, by_entropy=True)


@dataclass(frozen=True)
class IterSmooth:
    weight: float = option(0.3, "the highest weight of the mixture, which is added", minimum=0.0, maximum=10.0)
    initial: float = option(0.15, "its weight after the first pass", minimum=0.0, maximum=10.0)
    growth: float = option(0.02, "by which the weight grows with each pass", minimum=0.0, maximum=10.0)
    temperature: float = option(1.0, "divides the logits before the mixture", minimum=0.01)

    def share(self, step: int) -> Share:
        return Share(self.temperature, min(self.initial + self.growth * step, self.weight), by_entropy=False)


OPTIONS: dict[str, type[Any]] = {"mask": NoOptions, "residual": Residual, "soft": NoOptions, "iter-smooth": IterSmooth}
AUTO = "auto"


@dataclass(frozen=True)
class InputState:
    """One input state with its options, chosen for a request. Made by `parse_input_state`."""

    name: str
    options: Any

    def __str__(self) -> str:
        """As a command line names it, without the options that have their defaults."""
        options = [(f.name, getattr(self.options, f.name), f.default) for f in fields(self.options)]
        return ":".join([self.name, *(f"{name}={value:g}" for name, value, default in options if value != default)])

    @property
    def feeds(self) -> bool:
        """Whether anything is fed something else than its token."""
        return self.name != MASK.name

    @property
    def blends(self) -> bool:
        """Whether masks are fed mixtures over the vocabulary."""
        return hasattr(self.options, "share")

    @property
    def softens(self) -> bool:
        """Whether revealed tokens of the block are fed less than themselves."""
        return self.name == "soft"

    def share(self, step: int) -> Share:
        """Of one that blends: what counts after the pass that the request had `step` passes before."""
        share: Share = self.options.share(step)
        return share

    def as_json(self) -> dict[str, Any]:
        """The input state as answers show it, which is also how requests may name it."""
        return {"name": self.name, **vars(self.options)}


MASK = InputState("mask", NoOptions())


def parse_input_state(given: str | Mapping[str, Any]) -> InputState:
    """From one word, as `residual:alpha=0.5`, or a mapping with `name` and options. Raises RequestError."""
    try:
        name, options = split_text(given) if isinstance(given, str) else _split(given)
        if name not in OPTIONS:
            raise RequestError(unknown("input state", name, OPTIONS), "input_state")
        return InputState(name, parse_options(OPTIONS[name], options))
    except OptionError as error:
        raise RequestError(f"input state {show(given)}: {error}", "input_state") from None


def require_input_state(text: str) -> None:
    """Raise RequestError unless the word names an input state; needs no model."""
    if text != AUTO:
        parse_input_state(text)


def choose_input_state(given: str | Mapping[str, Any], model: Model) -> InputState:
    """The input state for what is given, where `auto` is what the model was trained with. Raises RequestError."""
    return parse_input_state(model.input_state if given == AUTO else given)


def _split(given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = given.get("name")
    if not isinstance(name, str):
        raise RequestError(f"field 'input_state.name' must be the name of one, not {show(name)}", "input_state")
    return name, {option: value for option, value in given.items() if option != "name"}


@dataclass(frozen=True)
class Shares:
    """A `Share` for each of P predictions, (P,): float32, float32, bool."""

    temperature: Tensor
    scale: Tensor
    by_entropy: Tensor


@dataclass(frozen=True)
class Embeddings:
    """What is mixed: the table (V, D), and the mask's row in it."""

    table: Tensor
    mask_id: int

    def blend(self, logits: Tensor, shares: Shares) -> Tensor:
        """What masks with these logits (P, V), in float32, are fed, (P, D)."""
        log_p = (logits / shares.temperature[:, None]).log_softmax(-1)
        p = log_p.exp()
        doubt = -(p * log_p).sum(-1) / math.log(logits.shape[-1])
        mixed = torch.where(shares.by_entropy, shares.scale * doubt, shares.scale)[:, None]
        masked = torch.where(shares.by_entropy[:, None], 1 - mixed, 1.0)
        mixture = p.to(self.table.dtype) @ self.table
        return (masked * self.table[self.mask_id].float() + mixed * mixture.float()).to(self.table.dtype)

    def soften(self, ids: Tensor, confidence: Tensor) -> Tensor:
        """What tokens (P,) with these probabilities (P,) are fed, (P, D)."""
        token, mask, c = self.table[ids].float(), self.table[self.mask_id].float(), confidence[:, None]
        mixture = c * token + (1 - c) * mask
        length = c * token.norm(dim=-1, keepdim=True) + (1 - c) * mask.norm()
        return (mixture * length / (mixture.norm(dim=-1, keepdim=True) + TINY)).to(self.table.dtype)
