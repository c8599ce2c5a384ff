"""Shared by the schedulers that reveal a fixed number of tokens per step: how many to reveal now."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import View
from unmask.schedulers.options import option


@dataclass(frozen=True)
class CountOptions:
    """At most one of the two may be set; by default one token is revealed per step."""

    n: int = option(1, "tokens revealed at each step", minimum=1, fast=4)
    steps: int | None = option(
        None,
        "forward passes for the whole generation, shared evenly among its tokens; at least one for each block, and at "
        "most one for each token",
        minimum=1,
    )

    def __post_init__(self) -> None:
        if self.steps is not None and self.n != 1:
            raise ValueError(f"options 'n' ({self.n}) and 'steps' ({self.steps}) exclude each other; give one of them")


def tokens_due(view: View) -> Tensor:
    """How many tokens each row reveals now, (B,) long.

    With `steps`, a block's masks are spread evenly over the passes that are left to it, the larger shares first:
    ceil(masks / passes). Each block with masks has one pass; the others are shared by the masks beyond the first of
    each block, rounded as they add up, so that all take `steps` together wherever blocks <= steps <= masks. Where
    blocks are equal and divide `steps`, this is LLaDA's `get_num_transfer_tokens` (arXiv 2502.09992, published code).
    """
    steps, masks = view.options["steps"], view.eligible.sum(1)
    spare, room = (steps - view.blocks).clamp(min=0), (view.masks - view.blocks).clamp(min=1)
    later = view.later_blocks + spare * (view.later_masks - view.later_blocks) // room
    passes = (steps - view.step - later).clamp(min=1)
    scheduled = (masks + passes - 1) // passes
    return torch.where(steps > 0, scheduled, view.options["n"])
