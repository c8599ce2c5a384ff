"""What one step computes and for whom, worked out on the host: integer arrays that travel to the device together."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.canvas import Canvas
from engine.proposal import Proposal, scatter
from engine.refresh import computed
from engine.transfer import Arrays, floats
from models.architecture import Architecture
from models.spans import SIZES, Array, Layout, Shapes, Span, filled, lay_out, round_up
from schedulers import View

STEPS_PER_SEED = 1_000_003  # seeds of consecutive requests differ by more than their steps


@dataclass(frozen=True)
class Plan:
    """One step of B rows whose widest block has W columns and which have M masks to decide on.

    layout  what the network computes
    arrays  those of the layout, and: `target` (M,), the place of each mask among B x W, one past the last for none;
            `block` (B, W), its tokens; `block_start`, `block_end`, `length`, `step`, `block_step`, `last_pass`, `seed`
            (B,); and of the masks whose token is drawn, `sampled` (S,), which of the M they are, and how
    columns that the network computes, padding left out
    """

    layout: Layout
    arrays: Arrays
    rows: int
    width: int
    columns: int

    @property
    def key(self) -> Hashable:
        """Steps of equal keys whose arrays have equal shapes run the same code."""
        return tuple(self.layout.parts.items()), self.rows, self.width

    def view(self, arrays: Mapping[str, Tensor], proposal: Proposal) -> View:
        """What schedulers see, from the arrays on the device and the proposal for the masks. Options are left out."""
        target = arrays["target"]
        spread = proposal.scatter(target, self.rows, self.width)
        mask = scatter(torch.ones_like(target, dtype=torch.bool), target, self.rows, self.width)
        return View(
            mask=mask,
            eligible=mask,
            tokens=arrays["block"],
            proposal=spread.ids,
            confidence=spread.confidence,
            positions=arrays["block_start"][:, None] + torch.arange(self.width, device=target.device),
            options={},
            top_ids=spread.top_ids,
            top_probabilities=spread.top_probabilities,
            entropy=spread.entropy,
            **{name: arrays[name] for name in _ROW_FIELDS},
        )


_ROW_FIELDS = ("block_start", "block_end", "length", "step", "block_step", "seed")


def plan_step(canvases: Sequence[Canvas], a: Architecture, capacity: int, shapes: Shapes) -> Plan:
    """The next step of some running requests.

    capacity  columns of a slot of the cache
    shapes    how alike steps are made, so that the same code can run again
    """
    size = SIZES[shapes]
    blocks = [(canvas.column(canvas.block_start), canvas.column(canvas.block_end)) for canvas in canvases]
    rows, width = len(canvases), max(end - start for start, end in blocks)
    if shapes == "padded":
        rows, width = round_up(rows), round_up(width)
    masks = [np.flatnonzero(canvas.masked[start:end]) for canvas, (start, end) in zip(canvases, blocks, strict=True)]
    spans = [
        _span(canvas, start + columns, a) for canvas, (start, _), columns in zip(canvases, blocks, masks, strict=True)
    ]
    layout = lay_out(spans, a, capacity, shapes)
    block = np.zeros((rows, width), dtype=np.int64)
    for row, (canvas, (start, end)) in enumerate(zip(canvases, blocks, strict=True)):
        block[row, : end - start] = canvas.ids[start:end]
    arrays = {
        **layout.arrays,
        "block": block,
        "target": filled([row * width + columns for row, columns in enumerate(masks)], size, filler=rows * width),
        **_row_arrays(canvases, rows),
        **_sampled(canvases, masks, size),
    }
    return Plan(layout, arrays, rows, width, columns=sum(len(span.tokens) for span in spans))


def _span(canvas: Canvas, wanted: Array, a: Architecture) -> Span:
    start, stop, visible = computed(canvas, canvas.request.cache, a)
    return Span(canvas.ids[start:stop], start, visible, wanted, canvas.slot)


def _row_arrays(canvases: Sequence[Canvas], rows: int) -> Arrays:
    table = np.zeros((rows, len(_ROW_FIELDS) + 1), dtype=np.int64)  # padding rows have an empty block
    table[: len(canvases)] = [
        (c.block_start, c.block_end, c.request.max_tokens, c.step, c.block_step, seed(c), c.last_pass) for c in canvases
    ]
    return dict(zip((*_ROW_FIELDS, "last_pass"), np.ascontiguousarray(table.T), strict=True))


def _sampled(canvases: Sequence[Canvas], masks: Sequence[Array], size: Callable[[int], int]) -> Arrays:
    """The masks of rows with a temperature."""
    ends = np.cumsum([len(columns) for columns in masks])
    drawing = [row for row, canvas in enumerate(canvases) if canvas.request.temperature > 0]
    if not drawing:
        return {}
    counts = [len(masks[row]) for row in drawing]
    requests = [canvases[row].request for row in drawing]

    def spread(values: Array | list[int]) -> Array:  # one value a row -> one a mask
        return filled([np.repeat(np.asarray(values), counts)], size)

    return {
        "sampled": filled([np.arange(ends[row] - len(masks[row]), ends[row]) for row in drawing], size),
        "sampled.position": filled([canvases[row].block_start + masks[row] for row in drawing], size),
        "sampled.seed": spread([seed(canvases[row]) for row in drawing]),
        "sampled.temperature": spread(floats([request.temperature for request in requests])),
        "sampled.top_p": spread(floats([request.top_p for request in requests])),
        "sampled.top_k": spread([request.top_k for request in requests]),
    }


def seed(canvas: Canvas) -> int:
    """Names the random stream of a request at its next step; wrapped to 64 bits."""
    return (canvas.request.seed * STEPS_PER_SEED + canvas.step + (1 << 63)) % (1 << 64) - (1 << 63)
