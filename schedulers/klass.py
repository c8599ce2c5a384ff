"""KLASS: reveals tokens that are confident and whose predictions are stable."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View
from unmask.schedulers.options import option


@dataclass(frozen=True)
class KLASSOptions:
    threshold: float = option(0.9, "least confidence of what is revealed", minimum=0.0, maximum=1.0, fast=0.5)
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
        before = state.get("stable", torch.zeros_like(view.positions))
        before = before.masked_fill(view.block_step[:, None] == 0, 0)
        stable = (before + 1).masked_fill(view.need("kl") >= view.option("epsilon"), 0)  # passes in a row
        reveal = (view.confidence > view.option("threshold")) & (stable >= view.option("history")) & view.eligible
        found = reveal.any(1, keepdim=True)
        return Decision(torch.where(found, reveal, view.most_confident()), state={"stable": stable})
