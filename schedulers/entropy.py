"""Entropy: reveals tokens whose predictions have the lowest entropy."""

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.counting import CountOptions, tokens_due


class Entropy:
    """Reveals the n eligible positions whose predictions have the lowest entropy.

    Formula: the n highest of -H_i = sum_v p_i(v) log p_i(v). Source: Dream's `alg="entropy"` (arXiv 2508.15487), which
    DiffuCoder recommends too (arXiv 2506.20639). Defaults: n = 1.
    """

    Options = CountOptions
    needs = Needs(entropy=True)

    def decide(self, view: View, state: State) -> Decision:
        return Decision(top_n(-view.need("entropy"), view.eligible, tokens_due(view)))
