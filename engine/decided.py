"""What a step decides, on the device and as the host reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.request import Reveal
from unmask.engine.transfer import to_host
from unmask.schedulers import View

Change = tuple[tuple[Reveal, ...], tuple[int, ...]]  # what a pass revealed and remasked in one row


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


@dataclass(frozen=True)
class Decided:
    """reveal, remask  (B, W) bool  where the proposal is written, and where a mask"""

    reveal: Tensor
    remask: Tensor
    proposed: Proposed


def read(decided: Decided, canvases: Sequence[Canvas]) -> list[Change | None]:
    """What each row revealed and remasked, None for a row with NaN. This is the step's one transfer to the host."""
    found = to_host(decided)
    sound = found.proposed.confidence.isfinite().all(1).tolist()
    starts = [canvas.window[0] for canvas in canvases]
    revealed: list[list[Reveal]] = [[] for _ in canvases]
    remasked: list[list[int]] = [[] for _ in canvases]
    places = found.reveal.nonzero()
    for (row, column), token, probability, top in zip(places.tolist(), *_of(found.proposed, found.reveal), strict=True):
        step, asked = canvases[row].step, canvases[row].request.top_logprobs
        revealed[row].append(Reveal(starts[row] + column, token, probability, step, top[:asked]))
    for row, column in found.remask.nonzero().tolist():
        position = starts[row] + column
        if not canvases[row].pinned[position]:
            remasked[row].append(position)
    return [(tuple(revealed[row]), tuple(remasked[row])) if ok else None for row, ok in enumerate(sound)]


Top = tuple[tuple[int, float], ...]  # token ids with their probabilities


def _of(proposed: Proposed, places: Tensor) -> tuple[list[int], list[float], list[Top]]:
    """Tokens, probabilities, and the most probable tokens at some places, (B, W) bool."""
    tokens: list[int] = proposed.ids[places].tolist()
    probabilities: list[float] = proposed.confidence[places].tolist()
    if proposed.top_ids is None or proposed.top_probabilities is None:
        return tokens, probabilities, [()] * len(tokens)
    tops = zip(proposed.top_ids[places].tolist(), proposed.top_probabilities[places].tolist(), strict=True)
    return tokens, probabilities, [tuple(zip(ids, p, strict=True)) for ids, p in tops]
