"""What rows with an input state are fed at their next pass, kept from the last one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.models.packing import Array, Given, Segment, joined


@dataclass(frozen=True)
class Kept:
    """What a pass left for the next one of a row, if that works on the same block.

    positions  of the generation region that may be fed something else than their tokens
    places     of their vectors among all that the pass left
    """

    block_start: int
    positions: Array
    places: Array


@dataclass(frozen=True)
class FeedInputs:
    """Which packed tokens of a pass, (P,) long, are fed which vectors of the last one, (P,) long."""

    index: Tensor
    places: Tensor


class Feed:
    """The vectors that the last pass of a batch left, one for each of its predictions. Rows may join and leave."""

    def __init__(self) -> None:
        self.kept: Mapping[str, Kept] = {}  # by request
        self._vectors: Tensor | None = None  # (M, D)

    def given(self, inputs: FeedInputs) -> Given:
        """What the network is fed."""
        assert self._vectors is not None
        return Given(inputs.index, self._vectors[inputs.places])

    def keep(self, canvases: Sequence[Canvas], vectors: Tensor | None) -> None:
        """Keep what a pass leaves, before the canvases advance; None if no row has an input state."""
        self.kept = {} if vectors is None else _to_keep(canvases)
        self._vectors = vectors


def feed_inputs(
    canvases: Sequence[Canvas], segments: Sequence[Segment], kept: Mapping[str, Kept], size: Callable[[int], int]
) -> FeedInputs | None:
    """What a pass over these segments, one a row, is fed of what was kept; None if that is nothing."""
    index, places = list[Array](), list[Array]()
    begin = 0
    for canvas, segment in zip(canvases, segments, strict=True):
        found = kept.get(canvas.request.id)
        if found is not None and found.block_start == canvas.block_start:
            chosen = canvas.is_fed(found.positions)
            index.append(begin + canvas.column(0) + found.positions[chosen] - segment.start)
            places.append(found.places[chosen])
        begin += len(segment.tokens)
    if not sum(map(len, index)):
        return None
    return FeedInputs(joined(index, size), joined(places, size))


def _to_keep(canvases: Sequence[Canvas]) -> dict[str, Kept]:
    kept, begin = dict[str, Kept](), 0
    for canvas in canvases:
        columns = canvas.wanted
        if canvas.request.input_state.feeds and not canvas.drafting:
            positions = canvas.window[0] + columns
            inside = (positions >= canvas.block_start) & (positions < canvas.block_end) & canvas.may_be_fed(positions)
            chosen = np.flatnonzero(inside)
            kept[canvas.request.id] = Kept(canvas.block_start, positions[chosen], begin + chosen)
        begin += len(columns)
    return kept
