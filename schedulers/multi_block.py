"""Multi-block: the next block begins before the last is done, with what the model is sure of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best, wide, wide_dtype
from unmask.schedulers.options import option


@dataclass(frozen=True)
class MultiBlockOptions:
    threshold: float = option(0.5, "reveal predictions whose entropy, in nats, is below this", minimum=0.0, fast=1.5)
    length: int = option(32, "positions of a block", minimum=1)
    begin: float = option(0.5, "share of a block that is revealed when the next begins", minimum=0.0, maximum=1.0)


class MultiBlock:
    """Reveals what is certain in every block that has begun, and always something in the first that is not full.

    Formula: the region in blocks of `length`; a block has begun if it is the first, or if at least the share `begin` of
    the one before it is revealed. {i in a block that has begun : H_i < threshold}; of the first block with masks its
    argmin H_i if nothing else of it. Source: the entropy rule and block pipeline of d3LLM (arXiv 2601.07568), which its
    distilled weights are made for; the rule alone is dParallel's (arXiv 2509.26488). Defaults: threshold = 0.5,
    length = 32, begin = 0.5.
    """

    Options = MultiBlockOptions
    needs = Needs(entropy=True)

    def decide(self, view: View, state: State) -> Decision:
        assert view.entropy is not None
        inside = (view.positions >= view.block_start[:, None]) & (view.positions < view.block_end[:, None])
        block = (view.positions - view.block_start[:, None]) // view.option("length")  # (B, W)
        share = _share_by_block(block, inside, ~view.mask)
        before = torch.nn.functional.pad(share[:, :-1], (1, 0), value=1.0).gather(1, block)
        begun = view.eligible & (before >= view.option("begin"))
        current = block.masked_fill(~view.eligible, block.shape[1]).amin(1, keepdim=True)
        certain = view.entropy < view.option("threshold")
        first = at_least_best(certain, -view.entropy, view.eligible & (block == current))
        return Decision(first | certain & begun)


def _share_by_block(block: Tensor, inside: Tensor, revealed: Tensor) -> Tensor:
    """Which share of each block of a row is revealed, (B, W) double, by the number of the block."""
    count = torch.zeros(block.shape, dtype=wide_dtype(block.device), device=block.device)
    full = count.scatter_add(1, block, wide(inside))
    return count.scatter_add(1, block, wide(inside & revealed)) / full.clamp(min=1)
