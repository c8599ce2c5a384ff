"""What a step decides, on the device and as the host reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.request import Reveal
from unmask.engine.transfer import to_host
from unmask.schedulers import View


class Change(NamedTuple):
    """What a pass did in one row.

    written  over other tokens
    finish   whether the block is over if it has no masks
    """

    revealed: tuple[Reveal, ...]
    remasked: tuple[int, ...]
    written: tuple[Reveal, ...] = ()
    finish: bool = True


@dataclass(frozen=True)
class Proposed:
    """What the rows would reveal, copied before a scheduler sees it: a scheduler might write into its view.

    ids, confidence             as `View.proposal` and `View.confidence`
    top_ids, top_probabilities  as in `View`, as many as a row asks for; None if none does
    """

    ids: Tensor
    confidence: Tensor
    top_ids: Tensor | None
    top_probabilities: Tensor | None

    @staticmethod
    def of(view: View, top_logprobs: int) -> "Proposed":
        """The copy, with the `top_logprobs` most probable tokens."""
        tops = (view.top_ids, view.top_probabilities) if top_logprobs else (None, None)
        top_ids, top_probabilities = (None if top is None else top[..., :top_logprobs].clone() for top in tops)
        return Proposed(view.proposal.clone(), view.confidence.clone(), top_ids, top_probabilities)

    def taking(self, choice: Tensor, top_logprobs: int) -> "Proposed":
        """With other tokens in place of some proposals: indices into the most probable ones (B, W), below 0 for none.

        Of the most probable tokens so many remain. What has no probability is not taken, since it may be forbidden.
        """
        assert self.top_ids is not None
        assert self.top_probabilities is not None
        index = choice.clamp(min=0)[..., None]
        p = self.top_probabilities.gather(-1, index).squeeze(-1)
        taken = (choice >= 0) & (p > 0)
        return Proposed(
            ids=torch.where(taken, self.top_ids.gather(-1, index).squeeze(-1), self.ids),
            confidence=torch.where(taken, p, self.confidence),
            top_ids=self.top_ids[..., :top_logprobs] if top_logprobs else None,
            top_probabilities=self.top_probabilities[..., :top_logprobs] if top_logprobs else None,
        )


@dataclass(frozen=True)
class Decided:
    """reveal, remask  (B, W) bool  where the proposal is written, and where a mask
    write  (B, W) bool  where it is written over a token; None if no row may
    finish  (B,) bool  whether the block is over if it has no masks; None if no row says
    """

    reveal: Tensor
    remask: Tensor
    proposed: Proposed
    write: Tensor | None = None
    finish: Tensor | None = None


def read(decided: Decided, canvases: Sequence[Canvas]) -> list[Change | None]:
    """What each row revealed, remasked and wrote; None for a row with NaN. The step's one transfer to the host."""
    found = to_host(decided)
    sound = found.proposed.confidence.isfinite().all(1).tolist()
    revealed = _reveals(found.reveal, found.proposed, canvases)
    remasked: list[list[int]] = [[] for _ in canvases]
    for row, column in found.remask.nonzero().tolist():
        position = canvases[row].window[0] + column
        if not canvases[row].pinned[position]:
            remasked[row].append(position)
    written: list[list[Reveal]] = [[] for _ in canvases]
    if found.write is not None:
        for row, reveals in enumerate(_reveals(found.write, found.proposed, canvases)):
            written[row] = [reveal for reveal in reveals if canvases[row].changes(reveal)]
    finish: list[bool] = [True] * len(canvases) if found.finish is None else found.finish.tolist()
    changes = zip(revealed, remasked, written, finish, strict=True)
    return [
        Change(tuple(new), tuple(old), tuple(over), ends) if ok else None
        for ok, (new, old, over, ends) in zip(sound, changes, strict=True)
    ]


def _reveals(places: Tensor, proposed: Proposed, canvases: Sequence[Canvas]) -> list[list[Reveal]]:
    """What is written at some places (B, W) bool, by row."""
    starts = [canvas.window[0] for canvas in canvases]
    found: list[list[Reveal]] = [[] for _ in canvases]
    for (row, column), token, probability, top in zip(places.nonzero().tolist(), *_of(proposed, places), strict=True):
        step, asked = canvases[row].step, canvases[row].request.top_logprobs
        found[row].append(Reveal(starts[row] + column, token, probability, step, top[:asked]))
    return found


Top = tuple[tuple[int, float], ...]  # token ids with their probabilities


def _of(proposed: Proposed, places: Tensor) -> tuple[list[int], list[float], list[Top]]:
    """Tokens, probabilities, and the most probable tokens at some places, (B, W) bool."""
    tokens: list[int] = proposed.ids[places].tolist()
    probabilities: list[float] = proposed.confidence[places].tolist()
    if proposed.top_ids is None or proposed.top_probabilities is None:
        return tokens, probabilities, [()] * len(tokens)
    tops = zip(proposed.top_ids[places].tolist(), proposed.top_probabilities[places].tolist(), strict=True)
    return tokens, probabilities, [tuple(zip(ids, p, strict=True)) for ids, p in tops]
