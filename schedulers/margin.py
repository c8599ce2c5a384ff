"""Margin: reveals tokens that lead the second best candidate by most."""

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.counting import CountOptions, tokens_due


class Margin:
    """Reveals the n eligible positions where the best token leads the second best by most.

    Formula: the n highest of p_i(1st) - p_i(2nd). Source: Kim et al., Train for the Worst, Plan for the Best (arXiv
    2502.06768, section 4); Dream's `alg="topk_margin"`. Defaults: n = 1.
    """

    Options = CountOptions
    needs = Needs(top_k=2)

    def decide(self, view: View, state: State) -> Decision:
        top = view.need("top_probabilities")  # (B, W, 2)
        margin = top[..., 0] - top[..., 1]
        return Decision(top_n(margin, view.eligible, tokens_due(view)))
