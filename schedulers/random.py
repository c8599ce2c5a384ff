"""Random order: the baseline of all other schedulers."""

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.counting import CountOptions, tokens_due


class Random:
    """Reveals n eligible positions drawn uniformly, blind to the model's predictions.

    Formula: the n highest of u_i, u_i ~ U(0, 1). Source: LLaDA's `remasking="random"` (arXiv 2502.09992); Dream's
    `alg="origin"` is its variant with a random count. Defaults: n = 1.
    """

    Options = CountOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision(top_n(view.uniform(), view.eligible, tokens_due(view)))
