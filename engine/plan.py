"""The plan of one step, made on the host: its tensors travel to the device together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.engine.adjustment.adjust import AdjustmentInputs
from unmask.engine.adjustment.inputs import adjustment_inputs
from unmask.engine.canvas import Canvas
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
    """

    tokens: Tensor
    masked: Tensor
    start: Tensor
    target: Tensor

    def standing(self) -> Tensor:
        """The token that stands at each of the M positions, (M,) long."""
        return torch.nn.functional.pad(self.tokens.flatten(), (0, 1))[self.target]


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
    """Some of the M predictions: those that may propose the same tokens.

    endless  whether they may propose no end of text
    index    (P,) long  which they are, and padding that repeats the last; None for all
    count    how many are no padding
    draws    those of rows with a temperature; None if nothing is drawn
    """

    endless: bool
    index: Tensor | None
    count: int
    draws: Draws | None

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
    """

    network: NetworkInputs
    window: WindowInputs
    rows: RowInputs
    last_pass: Tensor
    parts: tuple[Part, ...]
    structure: StructureInputs | None
    adjustment: AdjustmentInputs | None

    @property
    def amends(self) -> bool:
        """Whether some rows want other tokens than those that are proposed at first."""
        return self.structure is not None or self.adjustment is not None

    def view(self, proposal: Proposal) -> View:
        """What schedulers see, from the M predictions. Options are left out."""
        window, rows = self.window, self.rows
        count, width = window.tokens.shape
        spread = proposal.scatter(window.target, count, width)
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
    canvases: Sequence[Canvas], a: Architecture, capacity: int, shapes: Shapes, recurring: int = 0, first_slot: int = 0
) -> Plan:
    """The next step of some running requests.

    capacity    columns per slot of the cache
    shapes      how alike steps are made, so that compiled code fits again
    recurring   passes with at most this many columns are padded to a few sizes
    first_slot  the slot that the pass counts as its first
    """
    wanted, seeds = [canvas.wanted for canvas in canvases], [seed(canvas) for canvas in canvases]
    segments = [_segment(canvas, columns, a, first_slot) for canvas, columns in zip(canvases, wanted, strict=True)]
    computed_columns = sum(len(segment.tokens) for segment in segments)
    recurs = computed_columns <= recurring
    inputs = StepInputs(
        network=pack_segments(segments, a, capacity, "padded" if recurs else shapes),
        window=_window_inputs(canvases, wanted, SIZES[shapes]),
        rows=_row_inputs(canvases),
        last_pass=torch.tensor([canvas.last_pass for canvas in canvases]),
        parts=_parts(canvases, wanted, SIZES[shapes]),
        structure=structure_inputs(canvases, wanted, seeds),
        adjustment=adjustment_inputs(canvases, wanted, seeds),
    )
    return Plan(inputs, computed_columns, recurs)


def _segment(canvas: Canvas, wanted: Array, a: Architecture, first_slot: int) -> Segment:
    start, stop, key_length = columns_to_compute(canvas, canvas.request.cache, a)
    slot = None if canvas.slot is None else canvas.slot - first_slot
    return Segment(canvas.ids[start:stop], start, key_length, canvas.column(canvas.window[0]) + wanted, slot)


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
    )


def _row_inputs(canvases: Sequence[Canvas]) -> RowInputs:
    rows = [
        (
            *(c.block_start, c.block_end, c.request.max_tokens, c.masks, c.blocks, *c.later),
            *(c.step, c.block_step, seed(c)),
        )
        for c in canvases
    ]
    return RowInputs(*torch.from_numpy(np.array(rows, dtype=np.int64).T.copy()).unbind())


def _parts(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> tuple[Part, ...]:
    """The predictions in one part, or in two if only some of them may propose an end of text."""
    endless = [c.window[0] + columns < c.request.endless for c, columns in zip(canvases, wanted, strict=True)]
    kinds = sorted({bool(kind) for flags in endless for kind in np.unique(flags)})
    if len(kinds) <= 1:
        return (Part(any(kinds), None, sum(map(len, wanted)), _draws(canvases, wanted, size)),)
    everywhere = np.concatenate(endless)
    return tuple(
        Part(
            kind,
            joined([np.flatnonzero(everywhere == kind)], size),
            int((everywhere == kind).sum()),
            _draws(canvases, [c[flags == kind] for c, flags in zip(wanted, endless, strict=True)], size),
        )
        for kind in kinds
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
