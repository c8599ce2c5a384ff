"""Hidden states of the previous pass, for schedulers that need to know how far predictions have moved."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.plan import WindowInputs
from unmask.engine.proposal import scatter


class PreviousHidden:
    """Hidden states of the window of each row whose scheduler needs `kl`, by request.

    The head computes the old predictions from them again. Keeping the predictions themselves, over the whole
    vocabulary, would take a hundred times the memory.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Tensor | None] = {}  # (W, hidden size); None before the first pass that counts

    def of(self, canvases: Sequence[Canvas], hidden: Tensor, window: WindowInputs) -> Tensor:
        """The previous hidden states (M, D) of the positions of `hidden` (M, D); NaN where there are none."""
        rows, width = window.tokens.shape
        known = torch.full((rows * width + 1, hidden.shape[1]), torch.nan, dtype=hidden.dtype, device=hidden.device)
        for row, canvas in enumerate(canvases):
            last = self._rows.get(canvas.request.id)
            if last is not None and (canvas.block_step or canvas.needs.window == "generation"):
                last = last[:width]
                known[row * width : row * width + len(last)] = last
        return known[window.target]

    def keep(self, canvases: Sequence[Canvas], hidden: Tensor, window: WindowInputs) -> None:
        """Keep this pass for the next one, and forget rows that have left. The arguments are those of `of`."""
        spread = scatter(hidden, window.target, *window.tokens.shape)
        known = self._rows
        self._rows = {
            (id := canvas.request.id): known.get(id) if canvas.drafting else spread[row]
            for row, canvas in enumerate(canvases)
            if canvas.needs.kl
        }
