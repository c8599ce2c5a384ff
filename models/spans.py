"""What one forward pass computes: of each row a run of columns, packed one after another without padding.

A pass costs what its tokens cost. Linear layers see the packed tokens of all rows. Only attention works row by row; it
arranges them in rectangles: one for rows that are computed whole, so that the pass itself holds all the keys they
attend to, and one for rows that also attend to keys of earlier passes, which lie in a `KeyValues`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.models.architecture import Architecture

Array = NDArray[np.int64]
Size = Callable[[int], int]
FRESH, CACHED = "fresh", "cached"
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
class Layout:
    """A pass on the host: integer arrays, to be sent to the device in one piece, and what is none.

    arrays    the fields of `Spans` by name; for each part p also `p.all` and `p.wanted`, the indexes, and `p.visible`
              (B,), how many keys each row sees, left out where it sees all
    parts     by name
    """

    arrays: dict[str, Array]
    parts: dict[str, Part]
    block_size: int | None

    def spans(self, arrays: Mapping[str, Tensor]) -> Spans:
        """The pass, from its arrays on the device."""
        positions, wanted = arrays["positions"], arrays["wanted"]
        return Spans(
            tokens=arrays["tokens"],
            positions=positions,
            wanted=wanted,
            all_tokens=self._arrangement("all", positions, arrays),
            wanted_tokens=self._arrangement("wanted", positions[wanted], arrays),
            stored=arrays.get("stored"),
            at=arrays.get("at"),
        )

    def _arrangement(self, which: str, positions: Tensor, arrays: Mapping[str, Tensor]) -> Arrangement:
        indexes = tuple(arrays.get(f"{name}.{which}") for name in self.parts)
        unmasked = Arrangement(tuple(self.parts.values()), indexes, (), arrays.get(f"order.{which}"))
        masks = tuple(self._mask(name, unmasked.rows(positions, i), arrays) for i, name in enumerate(self.parts))
        return replace(unmasked, masks=masks)

    def _mask(self, name: str, queries: Tensor, arrays: Mapping[str, Tensor]) -> Tensor | None:
        """Which keys may be seen from the positions (B, S)."""
        visible = arrays.get(f"{name}.visible")
        if visible is None:
            return None
        key = torch.arange(self.parts[name].keys, device=queries.device)
        mask = (key < visible[:, None])[:, None, None]
        if self.block_size is not None:
            blocks = key // self.block_size <= (queries // self.block_size)[..., None]  # (B, S, K)
            mask = mask & blocks[:, None]
        return mask


def lay_out(spans: Sequence[Span], a: Architecture, capacity: int = 0, shapes: Shapes = "exact") -> Layout:
    """Pack the spans of one pass. Each starts far enough to the left of its wanted columns: `Architecture.reach`.

    capacity  columns of a slot of the cache
    shapes    how alike passes are made, with tokens that change nothing and arrays that say nothing
    """
    size = SIZES[shapes]
    runs = _runs([len(span.tokens) for span in spans])
    # The first column of a row has no left neighbour; as in Dream's published loop, it is read from itself.
    wanted = [run[0] + np.maximum(span.wanted - a.reach, 0) - span.start for span, run in zip(spans, runs, strict=True)]
    tokens = padded_tokens if shapes == "padded" else size
    arrays = {
        "tokens": filled([span.tokens for span in spans], tokens),
        "positions": filled([_columns(span) for span in spans], tokens),
        "wanted": filled(wanted, size),
        **_kept(spans, runs, capacity, size),
    }
    members = _members(spans)
    arrays |= _arrange("all", runs, members, shapes)
    arrays |= _arrange("wanted", _runs([len(run) for run in wanted]), members, shapes)
    parts = {}
    for name, rows in members.items():
        visible = np.ones(_height(rows, members, shapes), dtype=np.int64)  # 1 in empty rows: a softmax needs a key
        visible[list(rows.values())] = [spans[i].visible for i in rows]
        parts[name] = Part(len(visible), size(int(visible.max())), name == CACHED)
        if shapes != "exact" or a.block_size is not None or (visible < parts[name].keys).any():
            arrays[f"{name}.visible"] = visible
    return Layout(arrays, parts, a.block_size)


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


def _members(spans: Sequence[Span]) -> dict[str, dict[int, int]]:
    """Which spans each rectangle holds, and in which of its rows: {name: {span: row}}."""
    whole = [span.start == 0 and len(span.tokens) == span.visible for span in spans]
    fresh = {i: row for row, i in enumerate(i for i, is_whole in enumerate(whole) if is_whole)}
    cached = {i: span.slot for i, span in enumerate(spans) if not whole[i] and span.slot is not None}
    members = {FRESH: fresh, CACHED: cached}
    return {name: rows for name, rows in members.items() if rows}


def _arrange(
    which: str, runs: Sequence[Array], members: Mapping[str, Mapping[int, int]], shapes: Shapes
) -> dict[str, Array]:
    """The arrays of an `Arrangement`, of which each span has a run of tokens."""
    arrays: dict[str, Array] = {}
    places = list(runs)
    size = SIZES[shapes]
    before, total = 0, size(1 + int(runs[-1][-1]))
    for name, rows in members.items():
        width = size(max(len(runs[i]) for i in rows))
        index = np.zeros((_height(rows, members, shapes), width), dtype=np.int64)
        for i, row in rows.items():
            index[row] = runs[i][-1]  # padding is the row's own: a masked value counts too, times zero, and may be NaN
            index[row, : len(runs[i])] = runs[i]
            places[i] = runs[i] + (before + row * width - runs[i][0])
        before += index.size
        if shapes != "exact" or index.size != total or not _counts_up(index.ravel()):
            arrays[f"{name}.{which}"] = index
    order = filled(places, padded_tokens if shapes == "padded" and which == "all" else size)
    if shapes != "exact" or before != total or not _counts_up(order):
        arrays[f"order.{which}"] = order
    return arrays


def _height(rows: Mapping[int, int], members: Mapping[str, Mapping[int, int]], shapes: Shapes) -> int:
    """How many rows a rectangle has for these rows of it."""
    height = 1 + max(rows.values())
    if shapes == "exact":
        return height
    height = max(height, len(members))  # one row is a case that is worth kernels of its own, but not beside others
    return round_up(height) if shapes == "padded" else height


def _kept(spans: Sequence[Span], runs: Sequence[Array], capacity: int, size: Size) -> dict[str, Array]:
    """Which packed tokens leave their keys and values in the cache, and where."""
    kept = [
        (run, span.slot * capacity + _columns(span))
        for span, run in zip(spans, runs, strict=True)
        if span.slot is not None
    ]
    if not kept:
        return {}
    stored, at = zip(*kept, strict=True)
    return {"stored": filled(stored, size), "at": filled(at, size)}


def _runs(lengths: Sequence[int]) -> list[Array]:
    """So many numbers each, counted through."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _columns(span: Span) -> Array:
    return np.arange(span.start, span.start + len(span.tokens))


def filled(runs: Sequence[Array], size: Size, filler: int | None = None) -> Array:
    """The runs one after another, and copies of `filler`, or else of the last entry, up to the size."""
    values = np.concatenate(runs)
    last = values[-1] if filler is None else filler
    return np.concatenate([values, np.full(size(len(values)) - len(values), last)])


def _counts_up(values: Array) -> bool:
    return bool((values == np.arange(len(values))).all())
