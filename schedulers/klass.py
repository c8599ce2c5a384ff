"""KLASS: every token that the model is sure of and has been of one mind about."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.options import option


@dataclass(frozen=True)
class KLASSOptions:
    threshold: float = option(0.9, "least confidence of what is revealed", minimum=0.0, maximum=1.0)
    epsilon: float = option(0.01, "most, in nats, that a prediction may move from pass to pass", minimum=0.0)
    history: int = option(2, "passes in a row in which it may not have moved further", minimum=0)


class KLASS:
    """Reveals every position that is confident and stable, or the most confident one if there is none.

    Formula: {i : c_i > threshold and KL(p_i now || p_i one pass before) < epsilon in each of the last `history`
    passes}, else argmax c_i. The first pass over a block has nothing before it. Source: KLASS (Kim et al., arXiv
    2511.05664). Defaults: threshold = 0.9, epsilon = 0.01 and history = 2, the paper's for HumanEval with LLaDA.
    """

    Options = KLASSOptions
    needs = Needs(kl=True)

    def decide(self, view: View, state: State) -> Decision:
        assert view.kl is not None
        before = state.get("stable", torch.zeros_like(view.positions))
        before = before.masked_fill(view.block_step[:, None] == 0, 0)
        stable = (before + 1).masked_fill(view.kl >= view.option("epsilon"), 0)  # passes in a row
        reveal = (view.confidence > view.option("threshold")) & (stable >= view.option("history")) & view.eligible
        best = top_n(view.confidence, view.eligible, torch.ones_like(view.step))
        return Decision(torch.where(reveal.any(1, keepdim=True), reveal, best), state={"stable": stable})
