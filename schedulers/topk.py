"""Top-k by confidence, the standard order of masked diffusion models."""

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.counting import CountOptions, tokens_due


class TopK:
    """Reveals the n eligible positions with the most confident proposals.

    Formula: the n highest of c_i = p_i(proposal_i). Source: LLaDA's `remasking="low_confidence"` (arXiv 2502.09992: the
    *low*-confidence positions stay masked) and Dream's `alg="maskgit_plus"`, after MaskGIT (arXiv 2202.04200).
    Defaults: n = 1.
    """

    Options = CountOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision(top_n(view.confidence, view.eligible, tokens_due(view)))
