"""What one step computes and for whom, worked out on the host: integer arrays that travel to the device together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.proposal import Proposal
from unmask.engine.refresh import computed
from unmask.engine.transfer import Arrays, floats
from unmask.models.architecture import Architecture
from unmask.models.spans import SIZES, Array, Layout, Shapes, Span, filled, lay_out
from unmask.schedulers import View

STEPS_PER_SEED = 1_000_003  # seeds of consecutive requests differ by more than their steps


@dataclass(frozen=True)
class Plan:
    """One step of B rows whose widest window has W columns and which have M positions to predict.

    layout  what the network computes
    arrays  those of the layout, and: `target` (M,), the place of each prediction among B x W, one past the last for
            none; `tokens_seen` and `masked` (B, W) of the windows; `window_start`, `block_start`, `block_end`,
            `length`, `masks`, `blocks`, `later_masks`, `later_blocks`, `step`, `block_step`, `last_pass`, `seed` (B,);
            and of the predictions that are drawn, `sampled` (S,), which of the M they are, and how
    columns that the network computes, padding left out
    recurs  whether the layout is padded to one of a few
    """

    layout: Layout
    arrays: Arrays
    rows: int
    width: int
    columns: int
    recurs: bool

    def view(self, arrays: Mapping[str, Tensor], proposal: Proposal) -> View:
        """What schedulers see, from the arrays on the device and the predictions. Options are left out."""
        spread = proposal.scatter(arrays["target"], self.rows, self.width)
        positions = arrays["window_start"][:, None] + torch.arange(self.width, device=arrays["target"].device)
        mask = arrays["masked"].bool()
        in_block = (positions >= arrays["block_start"][:, None]) & (positions < arrays["block_end"][:, None])
        return View(
            mask=mask,
            eligible=mask & in_block,
            tokens=arrays["tokens_seen"],
            proposal=spread.ids,
            confidence=spread.confidence,
            positions=positions,
            options={},
            top_ids=spread.top_ids,
            top_probabilities=spread.top_probabilities,
            entropy=spread.entropy,
            kl=spread.kl,
            **{name: arrays[name] for name in _VIEW_FIELDS},
        )


_VIEW_FIELDS = (
    *("block_start", "block_end", "length", "masks", "blocks", "later_masks", "later_blocks"),
    *("step", "block_step", "seed"),
)


def plan_step(
    canvases: Sequence[Canvas], a: Architecture, capacity: int, shapes: Shapes, recurring: int = 0, first_slot: int = 0
) -> Plan:
    """The next step of some running requests.

    capacity    columns of a slot of the cache
    shapes      how alike steps are made, so that the same code can run again
    recurring   up to so many columns, what the network computes is padded to one of a few layouts
    first_slot  the slot that the pass counts as its first
    """
    size = SIZES[shapes]
    windows = [slice(*map(canvas.column, canvas.window)) for canvas in canvases]
    rows, width = len(canvases), max(window.stop - window.start for window in windows)
    wanted = [canvas.wanted for canvas in canvases]
    spans = [
        _span(canvas, window.start + columns, a, first_slot)
        for canvas, window, columns in zip(canvases, windows, wanted, strict=True)
    ]
    computed_columns = sum(len(span.tokens) for span in spans)
    recurs = computed_columns <= recurring
    layout = lay_out(spans, a, capacity, "padded" if recurs else shapes)
    tokens, masked = np.zeros((2, rows, width), dtype=np.int64)
    for row, (canvas, window) in enumerate(zip(canvases, windows, strict=True)):
        tokens[row, : window.stop - window.start] = canvas.ids[window]
        masked[row, : window.stop - window.start] = canvas.masked[window]
    arrays = {
        **layout.arrays,
        "tokens_seen": tokens,
        "masked": masked,
        "target": filled([row * width + columns for row, columns in enumerate(wanted)], size, filler=rows * width),
        **_row_arrays(canvases, rows),
        **_sampled(canvases, wanted, size),
    }
    return Plan(layout, arrays, rows, width, computed_columns, recurs)


def _span(canvas: Canvas, wanted: Array, a: Architecture, first_slot: int) -> Span:
    start, stop, visible = computed(canvas, canvas.request.cache, a)
    slot = None if canvas.slot is None else canvas.slot - first_slot
    return Span(canvas.ids[start:stop], start, visible, wanted, slot)


def _row_arrays(canvases: Sequence[Canvas], rows: int) -> Arrays:
    names = (*_VIEW_FIELDS, "last_pass", "window_start")
    table = np.zeros((rows, len(names)), dtype=np.int64)  # padding rows have an empty block
    table[: len(canvases)] = [
        (
            *(c.block_start, c.block_end, c.request.max_tokens, c.masks, c.blocks, *c.later),
            *(c.step, c.block_step, seed(c), c.last_pass, c.window[0]),
        )
        for c in canvases
    ]
    return dict(zip(names, np.ascontiguousarray(table.T), strict=True))


def _sampled(canvases: Sequence[Canvas], wanted: Sequence[Array], size: Callable[[int], int]) -> Arrays:
    """The predictions of rows with a temperature."""
    ends = np.cumsum([len(columns) for columns in wanted])
    drawing = [row for row, canvas in enumerate(canvases) if canvas.request.temperature > 0]
    if not drawing:
        return {}
    counts = [len(wanted[row]) for row in drawing]
    requests = [canvases[row].request for row in drawing]

    def spread(values: Array | list[int]) -> Array:  # one value a row -> one a prediction
        return filled([np.repeat(np.asarray(values), counts)], size)

    return {
        "sampled": filled([np.arange(ends[row] - len(wanted[row]), ends[row]) for row in drawing], size),
        "sampled.position": filled([canvases[row].window[0] + wanted[row] for row in drawing], size),
        "sampled.seed": spread([seed(canvases[row]) for row in drawing]),
        "sampled.temperature": spread(floats([request.temperature for request in requests])),
        "sampled.top_p": spread(floats([request.top_p for request in requests])),
        "sampled.top_k": spread([request.top_k for request in requests]),
    }


def seed(canvas: Canvas) -> int:
    """Names the random stream of a request at its next step; wrapped to 64 bits."""
    return (canvas.request.seed * STEPS_PER_SEED + canvas.step + (1 << 63)) % (1 << 64) - (1 << 63)
