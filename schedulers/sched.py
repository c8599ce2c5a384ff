"""SchED: reveal everything once the model is sure of the whole, and ask less of it the further it is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, top_n, wide
from unmask.schedulers.options import option

TINY = torch.finfo(torch.float32).tiny  # a probability below this counts as this: 87 nats


@dataclass(frozen=True)
class SchEDOptions:
    n: int = option(1, "tokens revealed at each step until then", minimum=1)
    curve: str = option("cosine", "how the bound falls", choices=("cosine", "linear", "exp", "prophet"))
    high: float = option(7.5, "mean lead, in nats, that is asked for at first", minimum=0.0, fast=2.5)
    low: float = option(2.5, "mean lead, in nats, that is asked for at the end", minimum=0.0)
    decay: float = option(4.0, "how fast the bound of 'exp' falls", minimum=0.0)


class SchED:
    """Reveals the most confident, and everything that is left once the best tokens lead the second best by enough.

    Formula: all if g >= tau(p), else the n highest c_i, where g = mean over the eligible masks of ln p_i(1st) - ln
    p_i(2nd), which is the lead of the raw logits; p = passes over the block / (those and ceil(masks / n) more); and
    tau(p) from high to low: `linear`, `cosine` low + (high - low) (1 + cos(pi p)) / 2, `exp` low + (high - low)
    exp(-decay p), or Prophet's steps: high, (high + low) / 2, low in each third. Source: SchED (arXiv 2512.02892);
    `prophet`: Prophet (arXiv 2508.19982), whose mean is over the positions of the answer, which a server does not know.
    Defaults: high = 7.5, low = 2.5, cosine (the paper also has low = 0); decay = 4; n = 1.
    """

    Options = SchEDOptions
    needs = Needs(top_k=2)

    def __init__(self, curve: str):
        self._curve = curve

    def decide(self, view: View, state: State) -> Decision:
        assert view.top_probabilities is not None
        n, masks = view.options["n"], view.eligible.sum(1)
        log_p = wide(view.top_probabilities.clamp(min=TINY)).log()
        lead = (log_p[..., 0] - log_p[..., 1]).masked_fill(~view.eligible, 0.0).sum(1) / masks.clamp(min=1)
        passes = view.block_step + (masks + n - 1) // n
        progress = wide(view.block_step) / passes.clamp(min=1)
        share = _share(self._curve, progress, wide(view.options["decay"]))
        high, low = wide(view.options["high"]), wide(view.options["low"])
        everything = (lead >= low + (high - low) * share)[:, None]
        return Decision(torch.where(everything, view.eligible, top_n(view.confidence, view.eligible, n)))


def _share(curve: str, progress: Tensor, decay: Tensor) -> Tensor:
    """How much of the way from low to high the bound is at, (B,), falling from 1."""
    if curve == "linear":
        return 1 - progress
    if curve == "cosine":
        return (1 + (math.pi * progress).cos()) / 2
    if curve == "exp":
        return (-decay * progress).exp()
    return 1 - (3 * progress).floor().clamp(max=2) / 2
