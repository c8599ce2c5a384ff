"""What one forward pass computes: of each row a run of columns, packed one after another without padding.

A pass costs what its tokens cost. Linear layers see the packed tokens of all rows. Only attention works row by row; it
arranges them in rectangles: one for rows that are computed whole, so that the pass itself holds all the keys they
attend to, and one for rows that also attend to keys of earlier passes, which lie in a `KeyValues`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.models.architecture import Architecture

Array = NDArray[np.int64]
Size = Callable[[int], int]
LEAST = 16  # a padded size; what is added to less costs nothing, as long as the weights are what a pass waits for


def round_up(size: int) -> int:
    """The next power of two."""
    return 1 << (size - 1).bit_length()


def padded(size: int) -> int:
    """A padded size: a power of two, from LEAST on."""
    return max(LEAST, round_up(size))


def padded_tokens(size: int) -> int:
    """A padded size of what every layer computes: a power of two or one and a half, from LEAST on."""
    part = max(LEAST, round_up(size) // 4)
    return -(-size // part) * part


def _at_least_two(size: int) -> int:
    return max(size, 2)


# exact: nothing is there in vain.
# uniform: every array is there, and no size but that of rows is 1, which compiled code takes for a case of its own.
# padded: sizes are rounded up to a few, too, so that they recur.
Shapes = Literal["exact", "uniform", "padded"]
SIZES: dict[Shapes, Size] = {"exact": int, "uniform": _at_least_two, "padded": padded}


@dataclass(frozen=True)
class Span:
    """The part of one row that a pass computes.

    tokens   ids of the columns from `start` on
    start    first column computed; of every column before it, the slot holds the keys and values
    visible  columns that there are for this pass: none attends to a key from here on
    wanted   columns to predict
    slot     where the row's keys and values are kept; None if they are not
    """

    tokens: Array
    start: int
    visible: int
    wanted: Array
    slot: int | None = None


@dataclass(frozen=True)
class Part:
    """A rectangle: rows B that attend to K keys, of the pass itself or `cached`, where row b is slot b."""

    rows: int
    keys: int
    cached: bool


@dataclass(frozen=True)
class Arrangement:
    """Where some n packed tokens lie in the rectangles, and what they see. One entry a part.

    indexes  (B, S) long             the token in each place; None if they lie row after row as they are
    masks    (B, 1, 1 or S, K) bool  the keys that may be seen; None for all
    order    (n,) long               each token's place, counted through all parts; None if in order
    """

    parts: tuple[Part, ...]
    indexes: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]
    order: Tensor | None

    def rows(self, x: Tensor, part: int) -> Tensor:
        """x (n, ...) of the tokens as rows (B, S, ...) of one part."""
        index = self.indexes[part]
        return x.unflatten(0, (self.parts[part].rows, -1)) if index is None else x[index]


@dataclass(frozen=True)
class Spans:
    """One pass over N packed tokens, M of them wanted.

    tokens, positions  (N,) long
    wanted             (M,) long          the tokens from whose hidden states the wanted columns are predicted
    all_tokens         the N tokens in the rectangles
    wanted_tokens      the M wanted ones
    stored, at         (Z,) long or None  tokens whose keys and values are kept, and where in the cache
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    all_tokens: Arrangement
    wanted_tokens: Arrangement
    stored: Tensor | None
    at: Tensor | None


@dataclass(frozen=True)
class Places:
    """Where some n packed tokens lie in the rectangles: the `indexes` and the `order` of an `Arrangement`."""

    indexes: tuple[Tensor | None, ...]
    order: Tensor | None


@dataclass(frozen=True)
class Layout:
    """One pass as it travels to the device, where `spans` completes it. Fields with names of `Spans` are those.

    all_tokens     the places of the N tokens
    wanted_tokens  the places of the M wanted ones
    visible        (B,) long  how many keys each row sees; None where it sees all. One entry a part
    block_size     of a model that attends in blocks
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    stored: Tensor | None
    at: Tensor | None
    parts: tuple[Part, ...]
    all_tokens: Places
    wanted_tokens: Places
    visible: tuple[Tensor | None, ...]
    block_size: int | None

    def spans(self) -> Spans:
        """The pass, on the device that its tensors are on."""
        return Spans(
            tokens=self.tokens,
            positions=self.positions,
            wanted=self.wanted,
            all_tokens=self._arrangement(self.all_tokens, self.positions),
            wanted_tokens=self._arrangement(self.wanted_tokens, self.positions[self.wanted]),
            stored=self.stored,
            at=self.at,
        )

    def _arrangement(self, places: Places, positions: Tensor) -> Arrangement:
        unmasked = Arrangement(self.parts, places.indexes, (), places.order)
        masks = tuple(self._mask(i, unmasked.rows(positions, i)) for i in range(len(self.parts)))
        return replace(unmasked, masks=masks)

    def _mask(self, part: int, queries: Tensor) -> Tensor | None:
        """Which keys may be seen from the positions (B, S)."""
        visible = self.visible[part]
        if visible is None:
            return None
        key = torch.arange(self.parts[part].keys, device=queries.device)
        mask = (key < visible[:, None])[:, None, None]
        if self.block_size is not None:
            blocks = key // self.block_size <= (queries // self.block_size)[..., None]  # (B, S, K)
            mask = mask & blocks[:, None]
        return mask


@dataclass(frozen=True)
class _Rectangle:
    """Which spans a part holds, and in which of its rows: {span: row}; and how many rows it has, empty ones too."""

    cached: bool
    rows: dict[int, int]
    height: int


def lay_out(spans: Sequence[Span], a: Architecture, capacity: int = 0, shapes: Shapes = "exact") -> Layout:
    """Pack the spans of one pass. Each starts far enough to the left of its wanted columns: `Architecture.reach`.

    capacity  columns of a slot of the cache
    shapes    how alike passes are made, with tokens that change nothing and arrays that say nothing
    """
    size = SIZES[shapes]
    token_size = padded_tokens if shapes == "padded" else size
    runs = _runs([len(span.tokens) for span in spans])
    # The first column of a row has no left neighbour; as in Dream's published loop, it is read from itself.
    wanted = [run[0] + np.maximum(span.wanted - a.reach, 0) - span.start for span, run in zip(spans, runs, strict=True)]
    stored, at = _kept(spans, runs, capacity, size)
    rectangles = _rectangles(spans, shapes)
    visible = [_visible(spans, rectangle) for rectangle in rectangles]
    parts = [Part(len(v), size(int(v.max())), r.cached) for v, r in zip(visible, rectangles, strict=True)]
    sees_all = shapes == "exact" and a.block_size is None
    return Layout(
        tokens=joined([span.tokens for span in spans], token_size),
        positions=joined([_columns(span) for span in spans], token_size),
        wanted=joined(wanted, size),
        stored=stored,
        at=at,
        parts=tuple(parts),
        all_tokens=_places(runs, rectangles, shapes, token_size),
        wanted_tokens=_places(_runs([len(run) for run in wanted]), rectangles, shapes, size),
        visible=tuple(
            None if sees_all and (v == part.keys).all() else torch.from_numpy(v)
            for v, part in zip(visible, parts, strict=True)
        ),
        block_size=a.block_size,
    )


def whole_rows(tokens: Tensor, a: Architecture) -> Spans:
    """The pass that computes and predicts every column of rows of one length, tokens (B, T)."""
    rows, length = tokens.shape
    column = torch.arange(length, device=tokens.device)
    source = (column - a.reach).clamp(min=0)  # whose hidden state predicts each column
    start = torch.arange(rows, device=tokens.device)[:, None] * length
    part = Part(rows, length, cached=False)

    def arranged(queries: Tensor) -> Arrangement:
        mask = None
        if a.block_size is not None:
            mask = (column // a.block_size <= (queries // a.block_size)[:, None]).expand(rows, 1, -1, -1)
        return Arrangement((part,), (None,), (mask,), None)

    wanted = (start + source).flatten()
    return Spans(tokens.flatten(), column.repeat(rows), wanted, arranged(column), arranged(source), None, None)


def _rectangles(spans: Sequence[Span], shapes: Shapes) -> list[_Rectangle]:
    """The rectangle of the rows that are computed whole, and that of the others, as far as there are such rows."""
    whole = [span.start == 0 and len(span.tokens) == span.visible for span in spans]
    fresh = {i: row for row, i in enumerate(i for i, is_whole in enumerate(whole) if is_whole)}
    cached = {i: span.slot for i, span in enumerate(spans) if not whole[i] and span.slot is not None}
    found = {is_cached: rows for is_cached, rows in ((False, fresh), (True, cached)) if rows}
    return [_Rectangle(is_cached, rows, _height(rows, len(found), shapes)) for is_cached, rows in found.items()]


def _height(rows: Mapping[int, int], rectangles: int, shapes: Shapes) -> int:
    """How many rows one of some rectangles has for these rows of it."""
    height = 1 + max(rows.values())
    if shapes == "exact":
        return height
    height = max(height, rectangles)  # one row is a case that is worth kernels of its own, but not beside others
    return round_up(height) if shapes == "padded" else height


def _visible(spans: Sequence[Span], rectangle: _Rectangle) -> Array:
    visible = np.ones(rectangle.height, dtype=np.int64)  # 1 in empty rows: a softmax needs a key
    visible[list(rectangle.rows.values())] = [spans[i].visible for i in rectangle.rows]
    return visible


def _places(runs: Sequence[Array], rectangles: Sequence[_Rectangle], shapes: Shapes, token_size: Size) -> Places:
    """Where the tokens lie of which each span has a run."""
    size = SIZES[shapes]
    places = list(runs)
    indexes: list[Array] = []
    before = 0  # places in the rectangles before
    for rectangle in rectangles:
        width = size(max(len(runs[i]) for i in rectangle.rows))
        index = np.zeros((rectangle.height, width), dtype=np.int64)
        for i, row in rectangle.rows.items():
            index[row] = runs[i][-1]  # padding is the row's own: a masked value counts too, times zero, and may be NaN
            index[row, : len(runs[i])] = runs[i]
            places[i] = runs[i] + (before + row * width - runs[i][0])
        before += index.size
        indexes.append(index)
    order = _filled(places, token_size)
    if shapes != "exact":
        return Places(tuple(map(torch.from_numpy, indexes)), torch.from_numpy(order))
    total = 1 + int(runs[-1][-1])
    return Places(tuple(_unless_counting(index, total) for index in indexes), _unless_counting(order, before))


def _unless_counting(index: Array, count: int) -> Tensor | None:
    """The index; None if all it does is to take that many entries in order."""
    in_order = index.size == count and (index.ravel() == np.arange(count)).all()
    return None if in_order else torch.from_numpy(index)


def _kept(
    spans: Sequence[Span], runs: Sequence[Array], capacity: int, size: Size
) -> tuple[Tensor | None, Tensor | None]:
    """Which packed tokens leave their keys and values in the cache, and where."""
    kept = [
        (run, span.slot * capacity + _columns(span))
        for span, run in zip(spans, runs, strict=True)
        if span.slot is not None
    ]
    if not kept:
        return None, None
    stored, at = zip(*kept, strict=True)
    return joined(stored, size), joined(at, size)


def _runs(lengths: Sequence[int]) -> list[Array]:
    """So many numbers each, counted through."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _columns(span: Span) -> Array:
    return np.arange(span.start, span.start + len(span.tokens))


def joined(runs: Sequence[NDArray[Any]], size: Size, filler: int | None = None) -> Tensor:
    """The runs one after another, and copies of `filler`, or else of the last entry, up to the size."""
    return torch.from_numpy(_filled(runs, size, filler))


def _filled(runs: Sequence[NDArray[Any]], size: Size, filler: int | None = None) -> NDArray[Any]:
    values = np.concatenate(runs)
    missing = size(len(values)) - len(values)
    last = values[-1] if filler is None else filler
    return np.concatenate([values, np.full(missing, last)]) if missing else values
