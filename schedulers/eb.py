"""EB: reveals as many tokens per step as a bound on their dependence allows."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.options import option


@dataclass(frozen=True)
class EBOptions:
    gamma: float = option(
        0.1, "bound, in nats, on how much the tokens of a step may depend on each other", minimum=0.0, fast=0.5
    )


class EB:
    """Reveals the positions of lowest entropy, as many as a bound on their dependence allows, and at least one.

    Formula: with H_(1) <= H_(2) <= ..., the largest n with H_(1) + ... + H_(n) - max_i H_(i) <= gamma. The left side
    bounds the total correlation of the n tokens; for one token it is 0. Source: EB-Sampler, with its entropy order
    (Ben-Hamu et al., arXiv 2505.24857). Defaults: gamma = 0.1.
    """

    Options = EBOptions
    needs = Needs(entropy=True)

    def decide(self, view: View, state: State) -> Decision:
        entropy = view.need("entropy")
        ranked = entropy.masked_fill(~view.eligible, torch.inf).sort(dim=1).values  # (B, W)
        # In this order the n-th is the largest of the first n, so what counts is the sum before it.
        before = torch.nn.functional.pad(ranked.cumsum(1)[:, :-1], (1, 0))
        return Decision(top_n(-entropy, view.eligible, (before <= view.option("gamma")).sum(1)))
