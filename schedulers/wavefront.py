"""Wavefront: masks close to what is known already, wherever that is."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, top_n
from unmask.schedulers.distance import distance
from unmask.schedulers.options import option


@dataclass(frozen=True)
class WavefrontOptions:
    n: int = option(1, "tokens revealed at each step", minimum=1, fast=4)
    radius: int = option(2, "how far from a known token a mask may be revealed", minimum=1)
    most: int = option(8, "most masks that are considered at a step", minimum=1)


class Wavefront:
    """Reveals the n most confident masks near revealed tokens, a front that moves out from the prompt and from each.

    Formula: F = the masks of the block within `radius` of a token that is not masked, the one before the block
    included, of these the `most` most confident; in the first pass the first `most` masks. The n highest c_i in F.
    Source: WavefrontDiffusion (Yang et al., arXiv 2511.19473), where n is tokens by steps. Defaults: n = 1;
    radius = 2 and most = 8, the paper's.
    """

    Options = WavefrontOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        inside = (view.positions >= view.block_start[:, None]) & (view.positions < view.block_end[:, None])
        known = torch.nn.functional.pad(inside & ~view.mask, (1, 0), value=True)  # (B, 1 + W)
        near = distance(known)[:, 1:] <= view.option("radius")
        first = view.eligible.cumsum(1) <= view.option("most")
        front = view.eligible & torch.where(view.block_step[:, None] == 0, first, near)
        return Decision(top_n(view.confidence, front, torch.minimum(view.options["n"], view.options["most"])))
