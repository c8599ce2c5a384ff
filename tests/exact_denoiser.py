"""A denoiser that is never wrong: it knows all solutions of a prompt and their shares, and keeps those that fit."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

END = -1


class ExactDenoiser:
    """Solutions (S, T) of one prompt as token ids, padded with END, and their shares (S,)."""

    def __init__(self, solutions: Sequence[Sequence[int]], shares: Sequence[float], length: int):
        self.tokens: npt.NDArray[np.int64] = np.full((len(solutions), length), END)
        for row, solution in zip(self.tokens, solutions, strict=True):
            row[: len(solution)] = solution
        self.shares = np.asarray(shares)

    def fill(self, threshold: float, block: int) -> npt.NDArray[np.int64]:
        """The canvas (T,) that a threshold fills, block by block: what is at least as sure, or else what is surest.

        At 1 that is one token a pass, most confident first. What fits no solution together is settled by the largest
        share of those that fit best.
        """
        fit, length = np.ones(len(self.shares), dtype=bool), self.tokens.shape[1]
        canvas, masked = np.full(length, END), np.ones(length, dtype=bool)
        while masked.any():
            ids, confidence = self._marginals(fit)
            eligible = masked & (np.arange(length) // block == masked.argmax() // block)
            confidence = np.where(eligible, confidence, -1)
            chosen = eligible & (confidence >= threshold) if threshold < 1 else np.zeros(length, dtype=bool)
            chosen[confidence.argmax()] = True
            canvas[chosen], masked = ids[chosen], masked & ~chosen
            agreement = (self.tokens[:, ~masked] == canvas[~masked]).sum(1)
            fit = agreement == agreement.max()
        return canvas

    def _marginals(self, fit: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(the most probable token of each position, its probability), among the solutions that fit."""
        shares, tokens = self.shares[fit] / self.shares[fit].sum(), self.tokens[fit]
        ids = np.unique(tokens)
        probability = np.stack([shares @ (tokens == token) for token in ids])
        return ids[probability.argmax(0)], probability.max(0)
