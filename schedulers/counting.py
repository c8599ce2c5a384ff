"""What the schedulers that reveal a fixed number of tokens a step have in common: how many are due now."""

from dataclasses import dataclass

import torch
from torch import Tensor

from schedulers.base import View
from schedulers.options import option


@dataclass(frozen=True)
class CountOptions:
    """At most one of the two may be set; by default one token is revealed a step."""

    n: int = option(1, "tokens revealed at each step", minimum=1)
    steps: int | None = option(
        None, "forward passes for the whole generation, shared evenly among its tokens", minimum=1
    )

    def __post_init__(self) -> None:
        if self.steps is not None and self.n != 1:
            raise ValueError(f"options 'n' ({self.n}) and 'steps' ({self.steps}) exclude each other; give one of them")


def tokens_due(view: View) -> Tensor:
    """How many tokens each row reveals now, (B,) long.

    With `steps`, a block gets its share of the steps by length, and its masks are spread evenly over the steps that
    are left, the larger shares first: ceil(masks left / steps left). This is LLaDA's `get_num_transfer_tokens`
    (arXiv 2502.09992, published code), without its empty steps where there are more steps than tokens.
    """
    steps, length = view.options["steps"], view.length
    block_steps = (steps * (view.block_end - view.block_start) + length // 2) // length
    steps_left = (block_steps - view.block_step).clamp(min=1)
    masks_left = view.mask.sum(1)
    scheduled = (masks_left + steps_left - 1) // steps_left
    return torch.where(steps > 0, scheduled, view.options["n"])
