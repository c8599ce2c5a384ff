"""Threshold: reveals all tokens whose confidence is high enough."""

from dataclasses import dataclass

from unmask.schedulers.base import Decision, Needs, State, View
from unmask.schedulers.options import option


@dataclass(frozen=True)
class ThresholdOptions:
    threshold: float = option(
        0.9, "reveal every position whose confidence exceeds this", minimum=0.0, maximum=1.0, fast=0.5
    )


class Threshold:
    """Reveals every eligible position whose confidence exceeds a threshold, and always the most confident one.

    Formula: {i : c_i > threshold} and argmax c_i. Source: Fast-dLLM (Wu et al., arXiv 2505.22618, section 3.3, the
    confidence-aware parallel decoding). Defaults: threshold = 0.9.
    """

    Options = ThresholdOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision((view.confidence > view.option("threshold")) & view.eligible | view.most_confident())
