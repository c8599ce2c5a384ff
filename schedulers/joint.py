"""Joint: reveals what is likely, and writes over what no longer is."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best
from unmask.schedulers.options import option


@dataclass(frozen=True)
class JointOptions:
    threshold: float = option(
        0.5, "reveal every position whose confidence exceeds this", minimum=0.0, maximum=1.0, fast=0.3
    )
    edit_threshold: float = option(
        0.0, "write over a token if the confidence in another exceeds this", minimum=0.0, maximum=1.0
    )
    post_edits: int = option(16, "most passes over a block after its last mask", minimum=0, maximum=16)


class Joint:
    """Reveals the confident masks and edits the tokens of the block at once, and goes on editing when it is full.

    Formula: reveal {i masked : c_i > threshold}, or argmax c_i if that is empty; write the proposal over {i revealed in
    this block : proposal_i differs from its token, c_i > edit_threshold}. A block without masks is over after a pass
    that edits nothing, or after `post_edits` passes. Source: LLaDA2.1 (arXiv 2602.08676), mask-to-token and
    token-to-token, as SGLang's `JointThreshold` (0.5.23) decides. For models that were trained to edit. Defaults:
    threshold = 0.5, edit_threshold = 0, post_edits = 16, SGLang's.
    """

    Options = JointOptions
    needs = Needs(write=True, finish=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        begins = (view.block_step == 0)[:, None]
        ours = torch.where(begins, view.eligible, state.get("ours", view.eligible))  # pinned tokens are not
        likely = view.confidence > view.option("threshold")
        reveal = at_least_best(likely, view.confidence, view.eligible)
        changed = (view.proposal != view.tokens) & (view.confidence > view.option("edit_threshold"))
        write = ours & ~view.mask & changed
        full = ~view.eligible.any(1)
        passes = state.get("passes", torch.zeros_like(view.step)).masked_fill(view.block_step == 0, 0) + full
        finish = full & ~write.any(1) | (passes >= view.options["post_edits"])
        return Decision(reveal, write=write, finish=finish, state={"ours": ours, "passes": passes})
