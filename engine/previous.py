"""Hidden states of the pass before, for schedulers that ask how far predictions have moved since."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.plan import WindowInputs
from unmask.engine.proposal import scatter


class PreviousHidden:
    """Hidden states of the window of each row that asks for them, by request.

    The predictions are made of them once more when they are needed: that costs the head a second time, where keeping
    distributions over the vocabulary would take a hundred times the memory.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor] = {}  # (W, hidden size)

    def of(self, canvases: Sequence[Canvas], hidden: Tensor, window: WindowInputs) -> Tensor:
        """(M, D), of the positions that hidden (M, D) is of; "not a number" where the pass before had none."""
        rows, width = window.tokens.shape
        known = torch.full((rows * width + 1, hidden.shape[1]), torch.nan, dtype=hidden.dtype, device=hidden.device)
        for row, canvas in enumerate(canvases):
            last = self._rows.get(canvas.request.id)
            if last is not None and (canvas.block_step or canvas.needs.window == "generation"):
                last = last[:width]
                known[row * width : row * width + len(last)] = last
        return known[window.target]

    def keep(self, canvases: Sequence[Canvas], hidden: Tensor, window: WindowInputs) -> None:
        """Remember this pass for the next, and forget rows that are gone. Arguments are those of `of`."""
        spread = scatter(hidden, window.target, *window.tokens.shape)
        self._rows = {canvas.request.id: spread[row] for row, canvas in enumerate(canvases) if canvas.needs.kl}
