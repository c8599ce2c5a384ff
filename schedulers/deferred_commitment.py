"""Deferred commitment: a window that slides with the first mask, so that what lacks its right context can wait."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best
from unmask.schedulers.options import option


@dataclass(frozen=True)
class DeferredCommitmentOptions:
    threshold: float = option(0.9, "reveal what is at least this confident", minimum=0.0, maximum=1.0, fast=0.5)
    masks: int = option(32, "most masks in the window", minimum=1)
    length: int = option(128, "most positions in the window", minimum=1)


class DeferredCommitment:
    """Reveals the confident positions of a window that begins at the first mask and reaches over revealed tokens.

    Formula: L = the first mask; R = the largest i <= L + length, at most the end of the block, with at most `masks`
    masks in [L, i); {i in [L, R) : c_i >= min(threshold, max c_j over that window)}. Source: Deferred Commitment
    Decoding (Shu et al., arXiv 2601.02076), for full diffusion: without the extension of blocks that its section on
    semi-causal models adds. Defaults: threshold = 0.9; masks = 32 and length = 128 are ours.
    """

    Options = DeferredCommitmentOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        first = view.positions.masked_fill(~view.eligible, torch.iinfo(torch.long).max).amin(1, keepdim=True)
        inside = view.eligible & (view.positions - first < view.option("length"))
        window = inside & (view.eligible.cumsum(1) <= view.option("masks"))
        best = view.confidence.masked_fill(~window, 0.0).amax(1, keepdim=True)
        bound = torch.minimum(best, view.option("threshold"))
        return Decision(at_least_best(window & (view.confidence >= bound), view.confidence, view.eligible))
