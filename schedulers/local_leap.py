"""LocalLeap: close to what is certain, less is asked for."""

from dataclasses import dataclass

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best
from unmask.schedulers.distance import distance
from unmask.schedulers.options import option


@dataclass(frozen=True)
class LocalLeapOptions:
    threshold: float = option(
        0.9, "what exceeds this is an anchor, and is revealed", minimum=0.0, maximum=1.0, fast=0.5
    )
    relaxed: float = option(0.75, "near an anchor, reveal what exceeds this", minimum=0.0, maximum=1.0)
    radius: int = option(4, "how many positions near reaches", minimum=0)


class LocalLeap:
    """Reveals every confident position, and around each of them what is a little less so.

    Formula: with A = {i : c_i > threshold}, A and {i : c_i > relaxed, min_{j in A} |i - j| <= radius}; argmax c_i if
    that is empty. Source: LocalLeap (Kong et al., Accelerating Diffusion LLM Inference via Local Determinism
    Propagation, arXiv 2510.07081). Defaults: threshold = 0.9, relaxed = 0.75, radius = 4.
    """

    Options = LocalLeapOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        anchors = (view.confidence > view.option("threshold")) & view.eligible
        near = distance(anchors) <= view.option("radius")
        reveal = anchors | near & (view.confidence > view.option("relaxed"))
        return Decision(at_least_best(reveal, view.confidence, view.eligible))
