"""Factor: the more tokens are revealed at once, the more confident each of them must be."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.options import option


@dataclass(frozen=True)
class FactorOptions:
    factor: float = option(1.0, "tolerance: larger reveals more at each step", minimum=0.0, fast=8.0)


class Factor:
    """Reveals the largest n such that the n-th highest confidence would still be safe among n, at least one.

    Formula: with c_(1) >= c_(2) >= ..., the longest prefix with (n + 1) (1 - c_(n)) <= factor; the first is always
    taken.
    Source: Fast-dLLM (Wu et al., arXiv 2505.22618, theorem 1 and its factor-based decoding). Defaults: factor = 1.
    """

    Options = FactorOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        ranked = view.confidence.masked_fill(~view.eligible, 0.0).sort(dim=1, descending=True).values  # (B, W)
        n = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        safe = (n + 1) * (1 - ranked) <= view.option("factor")
        accepted = safe.sum(1).clamp(min=1)  # the left side never falls along the ranks, so what is safe is a prefix
        return Decision(top_n(view.confidence, view.eligible, accepted))
