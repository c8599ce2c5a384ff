"""Gaps that find their own length: DreamOn (DreamLM/DreamOn, eval/generator.py).

Its model proposes two tokens that are no text. *Expand* stands for two masks, and an end of text, in a gap that
something follows, for nothing: with it go the masks behind it in its gap. So the region begins short and grows up to
`Request.max_tokens`; positions before a change stay as they are, and those behind it move. A step tells a move as what
it did to each position, so that readers of steps need not know of it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.engine.errors import RequestError
from unmask.engine.request import Request, Reveal, needs_of
from unmask.models.loading import Model
from unmask.models.packing import Array

T = TypeVar("T", np.int64, np.bool_)

Changed = tuple[tuple[Reveal, ...], tuple[int, ...], tuple[Reveal, ...]]  # revealed, remasked and written, as in `Step`
GAP = 4  # masks of a gap at first, as published (min_gen_len)
NEW = -1


def may_grow(request: Request, model: Model) -> bool:
    """Whether a gap before a suffix may find its own length: in one block, with all computed at every pass, and where
    nothing else counts positions. Otherwise it has the length that is asked for. Raises SchedulerError."""
    a = model.network.architecture
    plain = not (request.draft or request.template or request.structure or request.adjustment)
    whole = request.block_length >= request.max_tokens and request.cache.name == "none" and a.block_size is None
    if model.expand_id is None or not (request.suffix and plain and whole) or request.input_state.feeds:
        return False
    needs = needs_of(request)
    return needs.window == "masks" and not needs.remask


def growing(request: Request, model: Model) -> Request:
    """The same request, whose gap begins short if it may grow."""
    if not may_grow(request, model):
        return request
    return replace(request, spare=max(request.max_tokens - GAP, 0))


def growth_of(request: Request, model: Model) -> "Growth | None":
    """How the region of a request grows; None if it does not. Raises RequestError if it is to and may not."""
    if not request.spare:
        return None
    if model.expand_id is None or not may_grow(request, model) or not 0 < request.spare < request.max_tokens:
        raise RequestError(
            f"a region of {request.max_tokens} tokens cannot begin {request.spare} shorter here; leave 'spare' out, or "
            "see engine.growth for what may grow",
            "spare",
        )
    return Growth(model.expand_id, request.max_tokens)


def forbidden(model: Model) -> tuple[Tensor, Tensor]:
    """What may not be proposed, (V,) bool on the model's device: in general, and where a region may grow."""
    where_growing = torch.arange(model.network.architecture.vocab_rows, device=model.device) >= model.vocab_size
    where_growing[model.mask_id] = True
    usual = where_growing.clone()
    if model.expand_id is not None:
        usual[model.expand_id] = True
    return usual, where_growing


@dataclass
class Growth:
    """How one region grows.

    expand_id  the token that stands for two masks
    most       positions that the region may have, and expand tokens that are carried out
    """

    expand_id: int
    most: int
    done: int = 0

    def is_open(self, length: int) -> bool:
        """Whether a region of this length may grow."""
        return max(length, self.done) < self.most

    def order(
        self, tokens: Array, masked: NDArray[np.bool_], pinned: NDArray[np.bool_], stop_ids: Collection[int]
    ) -> list[int] | None:
        """Where each position of the region (R,) comes from once expand tokens and ends of text are carried out: its
        place before, or `NEW` for a mask that was none. None if there are no such tokens."""
        order, ended = list[int](), False
        for position, (token, is_mask, is_pinned) in enumerate(
            zip(tokens.tolist(), masked.tolist(), pinned.tolist(), strict=True)
        ):
            ended = ended and not is_pinned
            written = not is_mask and not is_pinned
            if written and token in stop_ids:
                ended = True
            elif written and token == self.expand_id:
                room = self.is_open(len(order) + len(tokens) - position)
                order += [NEW, NEW] if room else [NEW]
                self.done += room
            elif not is_mask or not ended:
                order.append(position)
        return None if order == list(range(len(tokens))) else order


def laid_out(values: NDArray[T], order: Sequence[int], start: int, end: int, new: T) -> NDArray[T]:
    """Columns (C,) whose region, from `start` to `end`, is put in another order; `new` where a mask is."""
    source = np.array(order, dtype=np.int64)
    region = np.where(source == NEW, new, values[start:end][source]) if len(order) else values[:0]
    return np.concatenate([values[:start], region.astype(values.dtype), values[end:]])


def moved(reveals: dict[int, Reveal], order: Sequence[int]) -> dict[int, Reveal]:
    """The reveals at their new positions, in the order that they had."""
    places = {old: new for new, old in enumerate(order) if old != NEW}
    return {places[old]: replace(one, position=places[old]) for old, one in reveals.items() if old in places}


def difference(before: dict[int, Reveal], after: dict[int, Reveal]) -> Changed:
    """What a reader of steps must do to go from some reveals to others."""
    revealed = tuple(one for place, one in sorted(after.items()) if place not in before)
    written = tuple(one for place, one in sorted(after.items()) if place in before and before[place] != one)
    return revealed, tuple(sorted(before.keys() - after.keys())), written
