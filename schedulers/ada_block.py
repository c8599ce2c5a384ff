"""AdaBlock: blocks that end where a line does."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best, top_n
from unmask.schedulers.options import option

REACH = 4  # a line's end is looked for in this part of the whole: a quarter


@dataclass(frozen=True)
class AdaBlockOptions:
    threshold: float = option(0.9, "reveal what is at least this confident", minimum=0.0, maximum=1.0, fast=0.5)
    delimiter: int = option(198, "the token that ends a block", minimum=0)
    delimiter_threshold: float = option(0.3, "how confident it must be", minimum=0.0, maximum=1.0)
    length: int = option(32, "positions of a block that no delimiter ends", minimum=1)


class AdaBlock:
    """Reveals the confident positions of a block of its own, which ends at a delimiter that the model foresees.

    Formula: where the block has no masks left, the next begins at the first mask, b. Of the masks in [b, b + a quarter
    of the whole) whose proposal is the delimiter, the most confident ends it, if c >= delimiter_threshold; otherwise it
    takes `length` positions. In it {i : c_i >= threshold} and argmax c_i. The whole is the engine's block: with full
    diffusion, the generation region. Source: AdaBlock-dLLM (Lu et al., arXiv 2509.26432, published code). Defaults:
    threshold = 0.9, length = 32, delimiter = 198, the new line of LLaDA's tokenizer, delimiter_threshold = 0.3 (0.5 for
    Dream).
    """

    Options = AdaBlockOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        end = state.get("end", torch.zeros_like(view.step)).masked_fill(view.block_step == 0, 0)  # (B,)
        over = ~(view.eligible & (view.positions < end[:, None])).any(1)
        end = torch.where(over, _next_end(view), end)
        block = view.eligible & (view.positions < end[:, None])
        reveal = view.confidence >= view.option("threshold")
        return Decision(at_least_best(reveal, view.confidence, block), state={"end": end})


def _next_end(view: View) -> Tensor:
    """One past the block that would begin at the first mask, (B,) long."""
    start = view.positions.masked_fill(~view.eligible, torch.iinfo(torch.int32).max).amin(1, keepdim=True)
    reach = (view.block_end - view.block_start)[:, None] // REACH
    near = view.eligible & (view.positions < start + reach) & (view.proposal == view.option("delimiter"))
    best = top_n(view.confidence, near, torch.ones_like(view.step))
    best = best & (view.confidence >= view.option("delimiter_threshold"))
    plain = start.squeeze(1) + view.options["length"]
    return torch.where(best.any(1), (view.positions * best).sum(1) + 1, plain)
