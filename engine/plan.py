"""The plan of one step, made on the host: its tensors travel to the device together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.engine.adjustment.adjust import AdjustmentInputs
from unmask.engine.adjustment.inputs import adjustment_inputs
from unmask.engine.canvas import Canvas
from unmask.engine.draft import DraftInputs, draft_inputs
from unmask.engine.feed import FeedInputs, Kept, feed_inputs
from unmask.engine.input_state import Shares
from unmask.engine.proposal import Draws, Proposal
from unmask.engine.refresh import columns_to_compute
from unmask.engine.structure.constrain import StructureInputs
from unmask.engine.structure.inputs import structure_inputs
from unmask.models.architecture import Architecture
from unmask.models.packing import SIZES, Array, NetworkInputs, Segment, Shapes, joined, pack_segments
from unmask.schedulers import View, in_block

STEPS_PER_SEED = 1_000_003  # seeds of consecutive requests differ by more than their steps


@dataclass(frozen=True)
class WindowInputs:
    """The windows of B rows, W columns wide, and the M positions in them to predict.

    tokens  (B, W) long  the canvas, masks included
    masked  (B, W) bool
    start   (B,) long    the first position of each window
    target  (M,) long    the place of each prediction among the B x W; B x W for padding
    unseen  (M,) bool    which of them no scheduler is shown; None if all are
    """

    tokens: Tensor
    masked: Tensor
    start: Tensor
    target: Tensor
    unseen: Tensor | None

    def of_each(self, values: Tensor) -> Tensor:
        """Values (B, W, ...) at the M positions, (M, ...); what there is for padding has no meaning."""
        return values.flatten(0, 1)[self.target.clamp(max=self.tokens.numel() - 1)]

    @property
    def shown(self) -> Tensor:
        """`target` (M,), and B x W for what no scheduler is shown."""
        return self.target if self.unseen is None else self.target.masked_fill(self.unseen, self.tokens.numel())


@dataclass(frozen=True)
class RowInputs:
    """What `View` has of each row under these names, (B,) long."""

    block_start: Tensor
    block_end: Tensor
    length: Tensor
    masks: Tensor
    blocks: Tensor
    later_masks: Tensor
    later_blocks: Tensor
    step: Tensor
    block_step: Tensor
    seed: Tensor


@dataclass(frozen=True)
class Part:
    """Some of the M predictions: those that may propose the same tokens, and leave as much for the next pass.

    endless  whether they may propose no end of text
    expands  whether they may propose that the region grows
    index    (P,) long  which they are, and padding that repeats the last; None for all
    count    how many are no padding
    draws    those of rows with a temperature; None if nothing is drawn
    shares   of those that the next pass is fed; None if they are of rows without an input state that blends
    """

    endless: bool
    expands: bool
    index: Tensor | None
    count: int
    draws: Draws | None
    shares: Shares | None

    @property
    def places(self) -> Tensor | None:
        """Which of the M predictions they are, without padding: draws leave that as it is. None for all."""
        return None if self.index is None else self.index[: self.count]


@dataclass(frozen=True)
class StepInputs:
    """All that one step of B rows needs on the device, except for the schedulers' options and states.

    network    what the network computes
    last_pass  (B,) bool  rows that may have no forward pass after this one
    parts      all predictions, by what they may propose
    structure  what structured rows need; None if there are none
    adjustment what adjusted rows need; None if there are none
    feed       what is fed of the last pass; None if nothing is
    softened   (S,) long   which predictions are of rows whose tokens are softened; None if there are none
    draft      what may be kept of drafts; None if no draft is judged
    """

    network: NetworkInputs
    window: WindowInputs
    rows: RowInputs
    last_pass: Tensor
    parts: tuple[Part, ...]
    structure: StructureInputs | None
    adjustment: AdjustmentInputs | None
    feed: FeedInputs | None
    softened: Tensor | None
    draft: DraftInputs | None

    @property
    def amends(self) -> bool:
        """Whether some rows want other tokens than those that are proposed at first."""
        return self.structure is not None or self.adjustment is not None

    def view(self, proposal: Proposal) -> View:
        """What schedulers see, from the M predictions. Options are left out."""
        window, rows = self.window, self.rows
        count, width = window.tokens.shape
        spread = proposal.scatter(window.shown, count, width)
        positions = window.start[:, None] + torch.arange(width, device=window.start.device)
        return View(
            mask=window.masked,
            eligible=window.masked & in_block(positions, rows.block_start, rows.block_end),
            tokens=window.tokens,
            proposal=spread.ids,
            confidence=spread.confidence,
            positions=positions,
            options={},
            top_ids=spread.top_ids,
            top_probabilities=spread.top_probabilities,
            entropy=spread.entropy,
            kl=spread.kl,
            stops=spread.stops,
            current=None if spread.current is None else spread.current.masked_fill(window.masked, 0.0),
            hidden=spread.hidden,
            **vars(rows),
        )


@dataclass(frozen=True)
class Plan:
    """One step.

    inputs   what it computes, on the host
    columns  how many the network computes, without padding
    recurs   whether the pass is padded to one of a few sizes
    """

    inputs: StepInputs
    columns: int
    recurs: bool


def plan_step(
    canvases: Sequence[Canvas],
    a: Architecture,
    capacity: int,
    shapes: Shapes,
    recurring: int = 0,
    first_slot: int = 0,
    kept: Mapping[str, Kept] | None = None,
) -> Plan:
    """The next step of some running requests.

    capacity    columns per slot of the cache
    shapes      how alike steps are made, so that compiled code fits again
    recurring   passes with at most this many columns are padded to a few sizes
    first_slot  the slot that the pass counts as its first
    kept        what the last pass left, by request
    """
    wanted, seeds = [canvas.wanted for canvas in canvases], [seed(canvas) for canvas in canvases]
    segments = [_segment(canvas, columns, a, first_slot) for canvas, columns in zip(canvases, wanted, strict=True)]
    computed_columns = sum(len(segment.tokens) for segment in segments)
    recurs = computed_columns <= recurring
    network_shapes: Shapes = "padded" if recurs else shapes
    inputs = StepInputs(
        network=pack_segments(segments, a, capacity, network_shapes),
        window=_window_inputs(canvases, wanted, SIZES[shapes]),
        rows=_row_inputs(canvases),
        last_pass=torch.tensor([canvas.last_pass for canvas in canvases]),
        parts=_parts(canvases, wanted, SIZES[shapes]),
        structure=structure_inputs(canvases, wanted, seeds),
        adjustment=adjustment_inputs(canvases, wanted, seeds),
        feed=feed_inputs(canvases, segments, kept, SIZES[network_shapes]) if kept else None,
        softened=_softened(canvases, wanted, SIZES[shapes]),
        draft=draft_inputs(canvases),
    )
    return Plan(inputs, computed_columns, recurs)


def _segment(canvas: Canvas, wanted: Array, a: Architecture, first_slot: int) -> Segment:
    start, stop, key_length = columns_to_compute(canvas, canvas.request.cache, a)
    slot = None if canvas.keys.slot is None else canvas.keys.slot - first_slot
    wanted = canvas.column(canvas.window[0]) + wanted
    tokens, adapter = canvas.ids[start:stop], canvas.request.adapter
    return Segment(tokens, start, key_length, wanted, slot, adapter, canvas.lead, canvas.open_column)


def _window_inputs(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> WindowInputs:
    windows = [canvas.window for canvas in canvases]
    rows, width = len(canvases), max(end - start for start, end in windows)
    tokens = np.zeros((rows, width), dtype=np.int64)
    masked = np.zeros((rows, width), dtype=np.bool_)
    for row, (canvas, (start, end)) in enumerate(zip(canvases, windows, strict=True)):
        columns = slice(canvas.column(start), canvas.column(end))
        tokens[row, : end - start] = canvas.ids[columns]
        masked[row, : end - start] = canvas.masked[columns]
    return WindowInputs(
        tokens=torch.from_numpy(tokens),
        masked=torch.from_numpy(masked),
        start=torch.tensor([start for start, _ in windows]),
        target=joined([row * width + columns for row, columns in enumerate(wanted)], size, filler=rows * width),
        unseen=_unseen(canvases, wanted, size),
    )


def _unseen(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> Tensor | None:
    """The predictions at revealed positions that are made for an input state alone."""
    if not any(c.request.input_state.softens and c.needs.window == "masks" for c in canvases):
        return None
    hidden = [
        (c.needs.window == "masks") & ~c.masked[c.column(c.window[0]) + columns]
        for c, columns in zip(canvases, wanted, strict=True)
    ]
    return joined(hidden, size, filler=False)


def _softened(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> Tensor | None:
    """The predictions of rows whose tokens are softened."""
    if not any(canvas.request.input_state.softens for canvas in canvases):
        return None
    soft = [np.full(len(columns), c.request.input_state.softens) for c, columns in zip(canvases, wanted, strict=True)]
    return joined([np.flatnonzero(np.concatenate(soft))], size)


def _row_inputs(canvases: Sequence[Canvas]) -> RowInputs:
    rows = [
        (
            *(c.block_start, c.block_end, c.length, c.masks, c.blocks, *c.later),
            *(c.step, c.block_step, seed(c)),
        )
        for c in canvases
    ]
    return RowInputs(*torch.from_numpy(np.array(rows, dtype=np.int64).T.copy()).unbind())


def _parts(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> tuple[Part, ...]:
    """The predictions in one part, or in several if only some of them may propose an end of text, or are blended."""
    kinds = [
        (c.window[0] + columns < c.request.endless) + (2 * c.request.input_state.blends + 4 * _may_grow(c))
        for c, columns in zip(canvases, wanted, strict=True)
    ]
    everywhere = np.concatenate(kinds)
    found = np.unique(everywhere).tolist()
    parts = []
    for kind in found or [0]:
        here = wanted if len(found) <= 1 else [c[of == kind] for c, of in zip(wanted, kinds, strict=True)]
        parts.append(
            Part(
                endless=bool(kind & 1),
                expands=bool(kind & 4),
                index=None if len(found) <= 1 else joined([np.flatnonzero(everywhere == kind)], size),
                count=sum(map(len, here)),
                draws=_draws(canvases, here, size),
                shares=_shares(canvases, here, size) if kind & 2 else None,
            )
        )
    return tuple(parts)


def _may_grow(canvas: Canvas) -> bool:
    growth = canvas.growth
    return growth is not None and growth.is_open(canvas.length) and not canvas.last_pass


def _shares(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> Shares:
    """What counts for each prediction of rows that blend."""
    pairs = zip(canvases, wanted, strict=True)
    rows = [(c.request.input_state.share(c.step), len(columns)) for c, columns in pairs if len(columns)]
    shares, counts = zip(*rows, strict=True)

    def repeated(values: Sequence[float], dtype: type[np.float32 | np.bool_]) -> Tensor:
        return joined([np.repeat(np.array(values, dtype=dtype), counts)], size)

    return Shares(
        temperature=repeated([share.temperature for share in shares], np.float32),
        scale=repeated([share.scale for share in shares], np.float32),
        by_entropy=repeated([share.by_entropy for share in shares], np.bool_),
    )


def _draws(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> Draws | None:
    """The predictions of rows with a temperature that are neither structured nor adjusted."""
    ends = np.cumsum([len(columns) for columns in wanted])
    drawing = [row for row, canvas in enumerate(canvases) if _draws_freely(canvas) and len(wanted[row])]
    if not drawing:
        return None
    counts = [len(wanted[row]) for row in drawing]
    requests = [canvases[row].request for row in drawing]

    def repeated(values: Sequence[float], dtype: type[np.int64 | np.float32]) -> Tensor:
        """One value per row -> one value per prediction."""
        column: NDArray[np.int64 | np.float32] = np.array(values, dtype=dtype)
        return joined([np.repeat(column, counts)], size)

    return Draws(
        index=joined([np.arange(ends[row] - len(wanted[row]), ends[row]) for row in drawing], size),
        position=joined([canvases[row].window[0] + wanted[row] for row in drawing], size),
        seed=repeated([seed(canvases[row]) for row in drawing], np.int64),
        temperature=repeated([request.temperature for request in requests], np.float32),
        top_p=repeated([request.top_p for request in requests], np.float32),
        top_k=repeated([request.top_k for request in requests], np.int64),
    )


def _draws_freely(canvas: Canvas) -> bool:
    return canvas.request.temperature > 0 and canvas.progress is None and canvas.request.adjustment is None


def seed(canvas: Canvas) -> int:
    """Names the random stream of a request at its next step; wrapped to 64 bits."""
    return (canvas.request.seed * STEPS_PER_SEED + canvas.step + (1 << 63)) % (1 << 64) - (1 << 63)
