"""What the adjusted rows of a step need on the device, made on the host."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.engine.adjustment.adjust import AdjustmentInputs
from unmask.engine.adjustment.request import NOTHING, Adjustment
from unmask.models.packing import Array

if TYPE_CHECKING:
    from unmask.engine.canvas import Canvas


def adjustment_inputs(
    canvases: Sequence["Canvas"], wanted: Sequence[Array], seeds: Sequence[int]
) -> AdjustmentInputs | None:
    """Those of some running requests; None if none is adjusted. The arguments are those of `structure_inputs`."""
    rows = {row: i for i, row in enumerate(r for r, canvas in enumerate(canvases) if canvas.request.adjustment)}
    if not rows:
        return None
    offsets = np.cumsum([0, *map(len, wanted)])
    free = [row for row in rows if canvases[row].progress is None]
    places = [canvases[row].window[0] + wanted[row] for row in free]
    asked = [canvases[row].request for row in free]
    counts = torch.tensor([len(place) for place in places], dtype=torch.long)
    deltas = [(rows[row], *change) for row in rows for change in _deltas(canvases[row])]
    seen = [(rows[row], token) for row in rows for token in _seen(canvases[row])]
    adjustments = [*(_of(canvases[row]) for row in rows), NOTHING]

    def each(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        """One value per row -> one per prediction."""
        return torch.tensor(values, dtype=dtype).repeat_interleave(counts)

    return AdjustmentInputs(
        index=_joined([np.arange(offsets[row], offsets[row + 1]) for row in free]),
        row=each([rows[row] for row in free], torch.long),
        endless=_joined(places) < each([request.endless for request in asked], torch.long),
        position=_joined(places),
        seed=each([seeds[row] for row in free], torch.long),
        temperature=each([request.temperature for request in asked], torch.float32),
        top_p=each([request.top_p for request in asked], torch.float32),
        top_k=each([request.top_k for request in asked], torch.long),
        structured=torch.tensor(
            [rows.get(row, len(rows)) for row, canvas in enumerate(canvases) if canvas.progress is not None],
            dtype=torch.long,
        ),
        delta_row=torch.tensor([row for row, _, _ in deltas], dtype=torch.long),
        delta_token=torch.tensor([token for _, token, _ in deltas], dtype=torch.long),
        delta=torch.tensor([delta for _, _, delta in deltas], dtype=torch.float32),
        seen_row=torch.tensor([row for row, _ in seen], dtype=torch.long),
        seen_token=torch.tensor([token for _, token in seen], dtype=torch.long),
        repetition=torch.tensor([one.repetition for one in adjustments]),
        min_p=torch.tensor([one.min_p for one in adjustments]),
        drawing=any(request.temperature > 0 for request in asked),
    )


def _of(canvas: "Canvas") -> Adjustment:
    return canvas.request.adjustment or NOTHING


def _joined(arrays: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *arrays]))


def _standing(canvas: "Canvas") -> Iterator[tuple[int, int]]:
    """Each token that is revealed in the generation region, but ends of text, and how often it stands there."""
    region = slice(canvas.column(0), canvas.column(canvas.request.max_tokens))
    tokens, counts = np.unique(canvas.ids[region][~canvas.masked[region]], return_counts=True)
    ends = canvas.stop_ids
    return ((token, count) for token, count in zip(tokens.tolist(), counts.tolist(), strict=True) if token not in ends)


def _deltas(canvas: "Canvas") -> Iterator[tuple[int, float]]:
    """What is added to which token's logit; a token may come twice."""
    asked = _of(canvas)
    yield from asked.bias
    if asked.presence or asked.frequency:
        for token, count in _standing(canvas):
            yield token, -asked.presence - asked.frequency * count


def _seen(canvas: "Canvas") -> set[int]:
    """The tokens whose repetition is weakened."""
    if _of(canvas).repetition == 1:
        return set()
    return {token for token, _ in _standing(canvas)} | (set(canvas.request.prompt) - canvas.stop_ids)
