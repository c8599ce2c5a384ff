"""DUS: positions far apart first, then those between them, whatever the model thinks."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, wide
from unmask.schedulers.options import option


@dataclass(frozen=True)
class DUSOptions:
    base: int = option(2, "by how much the stride shrinks from round to round", minimum=2)


class DUS:
    """Reveals every stride-th position of the block, then halves the stride: log2 of the block length passes a block.

    Formula: round t = 1, 2, ... reveals the masks at k with k mod s_t = 0, s_t = max(1, floor(B / base^t)), where k
    counts from the start of the block and B is its length; a round without masks is skipped. Source: DUS (Luxembourg
    et al., Plan for Speed, arXiv 2506.19037, section 3; without the published code's merging of a last round that is
    smaller than the one before it, which blocks of 2^n tokens never have). Defaults: base = 2.
    """

    Options = DUSOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        k = view.positions - view.block_start[:, None]  # (B, W)
        length = (view.block_end - view.block_start)[:, None]
        rounds = view.mask.shape[1].bit_length()
        due = torch.full_like(k, rounds + 1)
        for t in range(rounds, 0, -1):  # the earlier rounds overwrite
            stride = length // wide(view.option("base")).pow(t).clamp(max=2.0**53).round().long()
            due = torch.where(k % stride.clamp(min=1) == 0, t, due)
        due = due.masked_fill(~view.eligible, rounds + 2)
        return Decision(view.eligible & (due == due.amin(1, keepdim=True)))
