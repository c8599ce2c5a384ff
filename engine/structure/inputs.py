"""What the structured rows of a step need on the device, made on the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.structure.constrain import Noise, StructureInputs
from unmask.models.packing import Array


def structure_inputs(
    canvases: Sequence[Canvas], wanted: Sequence[Array], seeds: Sequence[int]
) -> StructureInputs | None:
    """Those of some running requests; None if none has a structure.

    wanted  the positions to predict of each, counted from the start of its window
    seeds   of each one's random stream at this step
    """
    offsets = np.cumsum([0, *map(len, wanted)])
    chosen = [row for row, canvas in enumerate(canvases) if canvas.progress is not None]
    if not chosen:
        return None
    width = max(canvases[row].block_end - canvases[row].block_start for row in chosen)
    rows = [_row(i, canvases[row], wanted[row], int(offsets[row]), width, seeds[row]) for i, row in enumerate(chosen)]
    automata = [progress.automaton for canvas in canvases if (progress := canvas.progress) is not None]
    predictions, fixed, states = (np.concatenate(part, axis=1) for part in zip(*rows, strict=True))
    index, row_of, column, seed, position = _tensors(predictions)
    requests = [canvases[row].request for row in chosen]
    drawing = any(request.temperature > 0 for request in requests)
    least = [request.adjustment.min_p if request.adjustment else 0.0 for request in requests]
    floats = [(request.temperature, request.top_p, p) for request, p in zip(requests, least, strict=True)]
    temperature, top_p, min_p = _tensors(np.array(floats, dtype=np.float32)[predictions[1]].T)
    top_k = torch.from_numpy(np.array([request.top_k for request in requests])[predictions[1]])
    fixed_row, fixed_column, fixed_token = _tensors(fixed)
    state, begin, left = _tensors(states)
    return StructureInputs(
        index=index,
        row=row_of,
        column=column,
        fixed_row=fixed_row,
        fixed_column=fixed_column,
        fixed_token=fixed_token,
        state=state,
        begin=begin,
        left=left,
        width=width,
        classes=max(automaton.classes for automaton in automata),
        widest=max(automaton.widest for automaton in automata),
        noise=Noise(seed, position, temperature, top_p, top_k, min_p) if drawing else None,
    )


def _tensors(array: NDArray[Any]) -> tuple[Tensor, ...]:
    """The rows of an array."""
    return torch.from_numpy(np.ascontiguousarray(array)).unbind()


def _row(row: int, canvas: Canvas, wanted: Array, offset: int, width: int, seed: int) -> tuple[Array, Array, Array]:
    """One row's predictions (5, n), revealed tokens (3, f), and state (3, 1), as `StructureInputs` names them."""
    assert canvas.progress is not None
    start, end = canvas.block_start, canvas.block_end
    region = slice(canvas.column(0), canvas.column(canvas.request.max_tokens))
    ids, masked = canvas.ids[region], canvas.masked[region]
    positions = canvas.window[0] + wanted
    index = np.flatnonzero((positions >= start) & (positions < end) & masked[positions])
    fixed = start + np.flatnonzero(~masked[start:end])
    begin = width - (end - start)
    columns = positions[index] - start + begin
    predictions = np.stack(np.broadcast_arrays(offset + index, row, columns, seed, positions[index]))
    revealed = np.stack(np.broadcast_arrays(row, fixed - start + begin, ids[fixed]))
    state = canvas.progress.state_at(start, ids)
    return predictions, revealed, np.array([[state], [begin], [canvas.request.max_tokens - end]])
