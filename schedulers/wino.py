"""WINO: reveals generously, and takes back what the model would not write again."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best, top_n, wide
from unmask.schedulers.options import option

LEAST, MOST, SHARE, BEFORE = (
    5,
    20,
    0.7,
    30,
)  # of the published code: bounds of a draft, and what stands for one at first


@dataclass(frozen=True)
class WINOOptions:
    wide_in: float = option(0.6, "reveal what exceeds this", minimum=0.0, maximum=1.0, fast=0.4)
    narrow_out: float = option(0.9, "take back what is below this", minimum=0.0, maximum=1.0)


class WINO:
    """Reveals what is fairly sure, and takes tokens back whose probability has fallen, fewer than it last revealed.

    Formula: S = {i : c_i > wide_in}, the min(20, max(5, floor(0.7 masks))) highest of it if there are more, argmax c_i
    if there is none. If |S| > 1, the tokens revealed in earlier passes over the block with q_i < narrow_out are masks
    again, the lowest q_i of them if they are not fewer than what the pass before revealed; q_i is the probability of
    the token at i. Source: WINO (arXiv 2507.18578, published code), its rule alone: there q_i comes from a second,
    masked copy of the block in the same pass, and here from the pass itself, which sees the token and so finds it more
    probable. Defaults: wide_in = 0.6, narrow_out = 0.9.
    """

    Options = WINOOptions
    needs = Needs(current=True, remask=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        assert view.current is not None
        begins, masks = view.block_step == 0, view.eligible.sum(1)
        ours = torch.where(begins[:, None], view.eligible, state.get("ours", view.eligible))  # pinned tokens are not
        before = state.get("revealed", masks).masked_fill(begins, BEFORE)
        sure = (view.confidence > view.option("wide_in")) & view.eligible
        most = (wide(masks) * SHARE).long().clamp(LEAST, MOST)
        reveal = at_least_best(top_n(view.confidence, sure, most), view.confidence, view.eligible)
        doubtful = ours & ~view.mask & (view.current < view.option("narrow_out"))
        allowed = torch.minimum(doubtful.sum(1), before - 1).masked_fill(reveal.sum(1) <= 1, 0)
        remask = top_n(-view.current, doubtful, allowed)
        return Decision(reveal, remask=remask, state={"ours": ours, "revealed": reveal.sum(1)})
