"""What one forward pass computes: a run of columns per row, packed one after another without padding.

A pass costs what its tokens cost. Linear layers see the packed tokens of all rows. Only attention works row by row, in
key groups: one for the rows that the pass computes whole, whose keys it holds itself, and one for the rows that also
attend to keys of earlier passes, which are in a `KeyValues`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.models.architecture import Architecture
from unmask.models.lora import Adapted, Groups

Array = NDArray[np.int64]
Size = Callable[[int], int]
SMALLEST_BUCKET = 16  # a smaller pass takes no less time: it waits for the weights


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def bucket(size: int) -> int:
    """The padded size: a power of two, at least SMALLEST_BUCKET."""
    return max(SMALLEST_BUCKET, power_of_two(size))


def token_bucket(size: int) -> int:
    """The padded number of tokens, which every layer computes: 4 to 8 eighths of a power of two, at least
    SMALLEST_BUCKET."""
    part = max(SMALLEST_BUCKET, power_of_two(size) // 4)
    return -(-size // part) * part


def _at_least_two(size: int) -> int:
    return max(size, 2)


# exact: no padding, and no array that changes nothing.
# uniform: every array is present, and no size but the number of rows is 1, a special case to compiled code.
# padded: as uniform, and sizes are rounded up to a few buckets, so that they recur.
Shapes = Literal["exact", "uniform", "padded"]
SIZES: dict[Shapes, Size] = {"exact": int, "uniform": _at_least_two, "padded": bucket}


@dataclass(frozen=True)
class Segment:
    """The part of one row that a pass computes.

    tokens      ids of the columns from `start` on
    start       first column that is computed; the slot holds the keys and values of all columns before it
    key_length  the row attends to the keys of the columns before this one
    wanted      columns to predict
    slot        where the row's keys and values are kept; None if they are not
    adapter     the place of its adapter among the model's; None if it has none
    lead        columns that the row's first block lacks, see `Architecture.lead`
    open        of a causal network: the first column that sees all others before `key_length`
    """

    tokens: Array
    start: int
    key_length: int
    wanted: Array
    slot: int | None = None
    adapter: int | None = None
    lead: int = 0
    open: int = 0


@dataclass(frozen=True)
class KeyGroup:
    """B rows that attend to K keys each: keys of the pass itself, or `cached` ones, where row b reads slot b."""

    rows: int
    keys: int
    cached: bool


@dataclass(frozen=True)
class GroupLayout:
    """Where n packed tokens are in the key groups, and what they see. One entry per group.

    indexes  (B, S) long             the token at each place; None if the tokens fill the rows in order
    masks    (B, 1, 1 or S, K) bool  the keys that may be seen; None for all
    order    (n,) long               each token's place, counted through all groups; None if in order
    """

    groups: tuple[KeyGroup, ...]
    indexes: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...]
    order: Tensor | None

    def rows(self, x: Tensor, group: int) -> Tensor:
        """x (n, ...) of the tokens as rows (B, S, ...) of one group."""
        index = self.indexes[group]
        return x.unflatten(0, (self.groups[group].rows, -1)) if index is None else x[index]


@dataclass(frozen=True)
class Given:
    """Tokens that are fed other vectors than the embeddings of their ids. A token may be there twice, with equal ones.

    index    (P,) long   which of the packed tokens
    vectors  (P, D)      what the first block reads for them
    """

    index: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class PackedBatch:
    """One pass over N packed tokens, M of them wanted.

    tokens, positions  (N,) long
    wanted             (M,) long          the tokens whose hidden states predict the wanted columns
    all_tokens         the N tokens in the key groups
    wanted_tokens      the M wanted ones
    write_from         (Z,) long or None  the tokens whose keys and values are written to the cache
    slot_mapping       (Z,) long or None  where in the cache they are written
    given              None if every token is fed its embedding
    adapted            the tokens that are of adapters
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    all_tokens: GroupLayout
    wanted_tokens: GroupLayout
    write_from: Tensor | None
    slot_mapping: Tensor | None
    given: Given | None = None
    adapted: tuple[Adapted, ...] = ()

    def groups(self, wanted: bool) -> Groups:
        """Of each adapter the tokens, or the wanted ones."""
        return [(one.adapter, one.wanted if wanted else one.tokens) for one in self.adapted]


@dataclass(frozen=True)
class Places:
    """Where n packed tokens are in the key groups: `indexes` and `order` of a `GroupLayout`."""

    indexes: tuple[Tensor | None, ...]
    order: Tensor | None


@dataclass(frozen=True)
class NetworkInputs:
    """One pass as it travels to the device, where `batch` completes it. Fields named as in `PackedBatch` are the same.

    all_tokens     the places of the N tokens
    wanted_tokens  the places of the M wanted ones
    key_lengths    (B,) long  how many keys each row sees; None if each sees all. One entry per group
    leads          (B,) long  columns that the first block of each row lacks; None if none does. One entry per group
    opens          (B,) long  the first column of each row that sees all keys; None if all do. One entry per group
    block_size     of a block-causal model that is not causal
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    write_from: Tensor | None
    slot_mapping: Tensor | None
    groups: tuple[KeyGroup, ...]
    all_tokens: Places
    wanted_tokens: Places
    key_lengths: tuple[Tensor | None, ...]
    leads: tuple[Tensor | None, ...]
    opens: tuple[Tensor | None, ...]
    block_size: int | None
    given: Given | None = None
    adapted: tuple[Adapted, ...] = ()

    def batch(self) -> PackedBatch:
        """The pass, on the device that its tensors are on."""
        return PackedBatch(
            tokens=self.tokens,
            positions=self.positions,
            wanted=self.wanted,
            all_tokens=self._layout(self.all_tokens, self.positions),
            wanted_tokens=self._layout(self.wanted_tokens, self.positions[self.wanted]),
            write_from=self.write_from,
            slot_mapping=self.slot_mapping,
            given=self.given,
            adapted=self.adapted,
        )

    def _layout(self, places: Places, positions: Tensor) -> GroupLayout:
        unmasked = GroupLayout(self.groups, places.indexes, (), places.order)
        masks = tuple(self._mask(i, unmasked.rows(positions, i)) for i in range(len(self.groups)))
        return replace(unmasked, masks=masks)

    def _mask(self, group: int, queries: Tensor) -> Tensor | None:
        """Which keys may be seen from the positions (B, S)."""
        lengths = self.key_lengths[group]
        if lengths is None:
            return None
        key = torch.arange(self.groups[group].keys, device=queries.device)
        mask = (key < lengths[:, None])[:, None, None]
        if self.block_size is not None:
            blocks = self._block(group, key) <= self._block(group, queries)[..., None]  # (B, S, K)
            mask = mask & blocks[:, None]
        if (opens := self.opens[group]) is not None:
            seen = (key <= queries[..., None]) | (queries >= opens[:, None])[..., None]  # (B, S, K)
            mask = mask & seen[:, None]
        return mask

    def _block(self, group: int, columns: Tensor) -> Tensor:
        """Which block the columns (B, S) or (K,) are in: (B, S); (K,), or (B, 1, K) where rows differ."""
        assert self.block_size is not None
        lead = self.leads[group]
        if lead is None:
            return columns // self.block_size
        return (columns + (lead[:, None, None] if columns.ndim == 1 else lead[:, None])) // self.block_size


@dataclass(frozen=True)
class _Group:
    """The segments of one key group: {segment: row}, and how many rows the group has, empty ones included."""

    cached: bool
    rows: dict[int, int]
    height: int


def pack_segments(
    segments: Sequence[Segment], a: Architecture, capacity: int = 0, shapes: Shapes = "exact"
) -> NetworkInputs:
    """Pack the segments of one pass. Each starts far enough to the left of its wanted columns: `Architecture.reach`.

    capacity  columns per slot of the cache
    shapes    how alike passes are made, by padding that changes no result
    """
    size = SIZES[shapes]
    token_size = token_bucket if shapes == "padded" else size
    runs = _runs([len(segment.tokens) for segment in segments])
    # The first column of a row has no left neighbour; as in Dream's published loop, it is read from itself. One behind
    # those that are computed is read from the last of them, as by an autoregressive model.
    wanted = [
        run[0] + np.clip(segment.wanted - a.reach - segment.start, -segment.start, len(run) - 1)
        for segment, run in zip(segments, runs, strict=True)
    ]
    write_from, slot_mapping = _written(segments, runs, capacity, size)
    groups = _groups(segments, shapes)
    lengths = [_key_lengths(segments, group) for group in groups]
    key_groups = [KeyGroup(len(n), size(int(n.max())), group.cached) for n, group in zip(lengths, groups, strict=True)]
    sees_all = shapes == "exact" and a.block_size is None
    return NetworkInputs(
        tokens=joined([segment.tokens for segment in segments], token_size),
        positions=joined([_columns(segment) for segment in segments], token_size),
        wanted=joined(wanted, size),
        write_from=write_from,
        slot_mapping=slot_mapping,
        groups=tuple(key_groups),
        all_tokens=_places(runs, groups, shapes, token_size),
        wanted_tokens=_places(_runs([len(run) for run in wanted]), groups, shapes, size),
        key_lengths=tuple(
            None if sees_all and (n == group.keys).all() else torch.from_numpy(n)
            for n, group in zip(lengths, key_groups, strict=True)
        ),
        leads=_of_rows([one.lead for one in segments] if a.from_prompt_end else None, groups),
        opens=_of_rows([one.open for one in segments] if a.causal else None, groups),
        block_size=None if a.causal else a.block_size,
        adapted=_adapted(segments, runs, size),
    )


def _adapted(segments: Sequence[Segment], runs: Sequence[Array], size: Size) -> tuple[Adapted, ...]:
    """The tokens of each adapter, all and wanted ones; none may be wanted of a row whose pass only fills the cache."""
    counted = _runs([len(segment.wanted) for segment in segments])
    found = []
    for adapter in sorted({segment.adapter for segment in segments if segment.adapter is not None}):
        own = [i for i, segment in enumerate(segments) if segment.adapter == adapter]
        tokens, wanted = (np.concatenate([of[i] for i in own]) for of in (runs, counted))
        found.append(Adapted(adapter, joined([tokens], size), joined([wanted], size if len(wanted) else int)))
    return tuple(found)


def _groups(segments: Sequence[Segment], shapes: Shapes) -> list[_Group]:
    """One group for the rows that are computed whole, one for the others; no group is empty."""
    whole = [segment.start == 0 and len(segment.tokens) == segment.key_length for segment in segments]
    fresh = {i: row for row, i in enumerate(i for i, is_whole in enumerate(whole) if is_whole)}
    cached = {i: segment.slot for i, segment in enumerate(segments) if not whole[i] and segment.slot is not None}
    found = {is_cached: rows for is_cached, rows in ((False, fresh), (True, cached)) if rows}
    return [_Group(is_cached, rows, _height(rows, len(found), shapes)) for is_cached, rows in found.items()]


def _height(rows: Mapping[int, int], groups: int, shapes: Shapes) -> int:
    """The number of rows of one of `groups` groups, which holds these."""
    height = 1 + max(rows.values())
    if shapes == "exact":
        return height
    height = max(height, groups)  # one row is a case that is worth kernels of its own, but not beside others
    return power_of_two(height) if shapes == "padded" else height


def _key_lengths(segments: Sequence[Segment], group: _Group) -> Array:
    lengths = np.ones(group.height, dtype=np.int64)  # 1 in empty rows: a softmax needs a key
    lengths[list(group.rows.values())] = [segments[i].key_length for i in group.rows]
    return lengths


def _of_rows(values: Sequence[int] | None, groups: Sequence[_Group]) -> tuple[Tensor | None, ...]:
    """One value per segment as (B,) per group, 0 in empty rows; None per group without values."""
    if values is None:
        return (None,) * len(groups)
    found = [np.zeros(group.height, dtype=np.int64) for group in groups]
    for rows, group in zip(found, groups, strict=True):
        rows[list(group.rows.values())] = [values[i] for i in group.rows]
    return tuple(map(torch.from_numpy, found))


def _places(runs: Sequence[Array], groups: Sequence[_Group], shapes: Shapes, token_size: Size) -> Places:
    """Where the tokens are in the groups. `runs` are the indexes of the tokens of each segment."""
    size = SIZES[shapes]
    places = list(runs)
    indexes: list[Array] = []
    before = 0  # places in the groups so far
    for group in groups:
        queries = size(max(len(runs[i]) for i in group.rows))
        index = np.zeros((group.height, queries), dtype=np.int64)
        for i, row in group.rows.items():
            index[row] = runs[i][-1]  # padding is the row's own: a masked value counts too, times zero, and may be NaN
            index[row, : len(runs[i])] = runs[i]
            places[i] = runs[i] + (before + row * queries - runs[i][0])
        before += index.size
        indexes.append(index)
    order = _filled(places, token_size)
    if shapes != "exact":
        return Places(tuple(map(torch.from_numpy, indexes)), torch.from_numpy(order))
    total = 1 + int(runs[-1][-1])
    return Places(tuple(_unless_counting(index, total) for index in indexes), _unless_counting(order, before))


def _unless_counting(index: Array, count: int) -> Tensor | None:
    """The index; None if it takes `count` entries in order."""
    in_order = index.size == count and (index.ravel() == np.arange(count)).all()
    return None if in_order else torch.from_numpy(index)


def _written(
    segments: Sequence[Segment], runs: Sequence[Array], capacity: int, size: Size
) -> tuple[Tensor | None, Tensor | None]:
    """Which packed tokens write their keys and values to the cache, and where."""
    written = [
        (run, segment.slot * capacity + _columns(segment))
        for segment, run in zip(segments, runs, strict=True)
        if segment.slot is not None
    ]
    if not written:
        return None, None
    write_from, slot_mapping = zip(*written, strict=True)
    return joined(write_from, size), joined(slot_mapping, size)


def _runs(lengths: Sequence[int]) -> list[Array]:
    """Consecutive numbers, `length` of them in each run."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _columns(segment: Segment) -> Array:
    return np.arange(segment.start, segment.start + len(segment.tokens))


def joined(runs: Sequence[NDArray[Any]], size: Size, filler: int | None = None) -> Tensor:
    """The runs one after another, then copies of `filler`, by default of the last entry, up to the size."""
    return torch.from_numpy(_filled(runs, size, filler))


def _filled(runs: Sequence[NDArray[Any]], size: Size, filler: int | None = None) -> NDArray[Any]:
    values = np.concatenate(runs)
    missing = size(len(values)) - len(values)
    last = values[-1] if filler is None else filler
    return np.concatenate([values, np.full(missing, last)]) if missing else values
