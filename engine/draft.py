"""A draft: tokens that the client expects the answer to begin with, and that the model may refuse.

A model that fills masks never learned to judge a token that it sees: it repeats it. So each token of the draft is
judged while it is a mask. The model agrees with it if its proposal is the same token, with a confidence of at least
BELIEF. Block by block:

    1. Every second token of the draft stands, and the others are judged. Those before the first that is refused pass.
    2. Only those that passed stand, and all others are judged. What comes before the first that is refused is kept.
    3. From now on the scheduler decides as ever, on a canvas that holds nothing but what was kept. At each pass, what
       the model agrees with beside is kept too, if everything before it in the block is a token or kept.

An end of text right after the draft is judged like a token of it, in 2 and 3. What is refused is decoded as if there
had been no draft. 1 and 2 are left out where less than two tokens of the draft are in the block, or one pass is left;
2 also where none passed; and 3 lasts one pass for schedulers that take tokens back. 1 and 2 count as forward
passes of the request, but nothing else is left of them to caches, schedulers and input states: the block begins after
them.

So a draft costs at most two passes a block, and one if its first token is refused; one that is right needs two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from unmask.engine.request import Reveal
from unmask.schedulers import View

if TYPE_CHECKING:
    from unmask.engine.canvas import Canvas
    from unmask.engine.groups import Choice

BELIEF = 0.5  # least confidence of a proposal that agrees with the draft
NONE, END = -1, -2  # where the draft has nothing, and right after it


@dataclass
class Draft:
    """The draft of one request, as far as it has come. Positions count as in `Canvas`.

    judged    those of the block that the draft has something for, and the one after it, ascending
    standing  where the draft stands in the next pass, unsettled
    halved    whether that is its every second token
    """

    tokens: tuple[int, ...]
    judged: list[int] = field(default_factory=list)
    standing: list[int] = field(default_factory=list)
    halved: bool = False
    _passed: list[Reveal] = field(default_factory=list)  # what stands in the second pass

    def open(self, masks: list[int]) -> None:
        """Begin a block with these masks, ascending."""
        length = len(self.tokens)
        self.judged = [position for position in masks if position <= length] if length else []
        inside = [position for position in masks if position < length]
        self.standing, self.halved = inside[1::2], len(inside) > 1

    def drop(self) -> None:
        """Let nothing stand in the next pass."""
        self.standing, self.halved, self._passed = [], False, []

    def judge(self, agreed: Sequence[Reveal], masks: list[int]) -> tuple[Reveal, ...]:
        """What is kept after a pass in which the draft stood, and the model agreed with so much. From what stood, too,
        the masks (ascending) of the block are made."""
        passed = [*self._passed, *agreed]
        if self.halved:
            self.drop()
            self._passed, self.standing = passed, [reveal.position for reveal in passed]
            return ()
        self.drop()
        known = {reveal.position for reveal in passed}
        refused = next((position for position in masks if position not in known), max(masks) + 1)
        return tuple(reveal for reveal in passed if reveal.position < refused)


@dataclass(frozen=True)
class DraftInputs:
    """What is judged at one step of B rows, whose windows are W columns wide.

    tokens    (B, W) long  what the draft has at each place, or `NONE` or `END`
    standing  (B,) bool    rows in which it stands, so that their schedulers are not heard
    """

    tokens: Tensor
    standing: Tensor

    def kept(self, view: View, stops: Tensor) -> Tensor:
        """Where the model agrees, and so it does before, (B, W) bool; stops (V,) bool, ends of text."""
        same = (view.proposal == self.tokens) | ((self.tokens == END) & stops[view.proposal])
        agreed = view.eligible & same & (view.confidence >= BELIEF)
        return agreed & ((view.eligible & ~agreed).cumsum(1) == 0)

    def amended(self, chosen: "Choice", kept: Tensor) -> "Choice":
        """What is done: what is kept and, where schedulers are heard, what they chose."""
        unheard = self.standing[:, None]
        return replace(
            chosen,
            reveal=kept | (chosen.reveal & ~unheard),
            remask=chosen.remask & ~unheard,
            write=None if chosen.write is None else chosen.write & ~unheard,
            choice=None if chosen.choice is None else chosen.choice.masked_fill(kept, -1),
        )


def draft_inputs(canvases: Sequence["Canvas"]) -> DraftInputs | None:
    """Those of some running requests; None if nothing is judged."""
    if not any(canvas.draft.judged for canvas in canvases):
        return None
    width = max(end - start for start, end in (canvas.window for canvas in canvases))
    tokens = np.full((len(canvases), width), NONE, dtype=np.int64)
    for row, canvas in enumerate(canvases):
        draft, start = canvas.draft, canvas.window[0]
        for position in draft.judged:
            last = NONE if draft.halved else END
            tokens[row, position - start] = draft.tokens[position] if position < len(draft.tokens) else last
    standing = torch.tensor([bool(canvas.draft.standing) for canvas in canvases])
    return DraftInputs(torch.from_numpy(tokens), standing)
