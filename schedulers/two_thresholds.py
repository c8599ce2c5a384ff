"""Two thresholds: one asks whether anything at all is doubtful, the other what to reveal if something is."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best
from unmask.schedulers.options import option


@dataclass(frozen=True)
class TwoThresholdsOptions:
    all_above: float = option(0.62, "reveal everything if the least sure exceeds this", minimum=0.0, maximum=1.0)
    each_above: float = option(0.95, "otherwise reveal what exceeds this", minimum=0.0, maximum=1.0, fast=0.5)


class TwoThresholds:
    """Reveals everything if even the least sure position is sure enough, otherwise only what is nearly certain.

    Formula: with E the eligible positions, E if min c_i > all_above, else {i in E : c_i > each_above}; argmax c_i if
    that is empty. Source: ours, after what the learned policies do. Defaults: all_above = 0.62, each_above = 0.95.
    """

    Options = TwoThresholdsOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        least = view.confidence.masked_fill(~view.eligible, 1.0).amin(1, keepdim=True)  # (B, 1)
        certain = view.confidence > view.option("each_above")
        reveal = torch.where(least > view.option("all_above"), view.eligible, certain)
        return Decision(at_least_best(reveal, view.confidence, view.eligible))
