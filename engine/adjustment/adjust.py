"""Between proposal and scheduler: adjusted rows propose by changed logits. Confidence stays that of the raw ones.

Penalties count what stands on the canvas before the step. Tokens that one step reveals together do not see each other.
The rules are vLLM's; those of repetition are from CTRL (Keskar et al., arXiv 1909.05858).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unmask.engine.proposal import DRAWING, SAMPLING_STREAM, KeptLogits, Proposal, drawn_ids, in_chunks
from unmask.schedulers import counter_uniform


@dataclass(frozen=True)
class AdjustmentInputs:
    """What adjusted rows need on the device at one step: R rows, n predictions of those without a structure.

    index      (n,) long  which of the M predictions
    row        (n,) long  the adjusted row that each stands in
    endless    (n,) bool  whether no end of text may stand there
    seed, position     (n,) long  name the random number of each draw
    temperature, top_p (n,) float32; top_k (n,) long
    structured (S,) long  the adjusted row of each structured row; R for those that are not adjusted
    delta_row, delta_token  (k,) long; delta (k,) float32  what is added to which logit
    seen_row, seen_token    (s,) long  tokens whose repetition is weakened
    repetition, min_p  (R + 1,) float32, the last for rows that are not adjusted
    drawing    whether any of the n is drawn
    """

    index: Tensor
    row: Tensor
    endless: Tensor
    position: Tensor
    seed: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    structured: Tensor
    delta_row: Tensor
    delta_token: Tensor
    delta: Tensor
    seen_row: Tensor
    seen_token: Tensor
    repetition: Tensor
    min_p: Tensor
    drawing: bool

    def of_predictions(self) -> tuple[Tensor, ...]:
        """What there is one of per prediction, but the index."""
        return self.row, self.endless, self.position, self.seed, self.temperature, self.top_p, self.top_k


@dataclass(frozen=True)
class Changes:
    """Of R rows and one that is not adjusted: delta (R + 1, V) float32, seen (R + 1, V) bool, and the others as in
    `AdjustmentInputs`."""

    delta: Tensor
    seen: Tensor
    repetition: Tensor
    min_p: Tensor

    @staticmethod
    def of(inputs: AdjustmentInputs, vocabulary: int) -> "Changes":
        """Those of a step."""
        shape = len(inputs.repetition), vocabulary
        delta = torch.zeros(shape, device=inputs.delta.device)
        seen = torch.zeros(shape, dtype=torch.bool, device=inputs.delta.device)
        delta.index_put_((inputs.delta_row, inputs.delta_token), inputs.delta, accumulate=True)
        seen[inputs.seen_row, inputs.seen_token] = True
        return Changes(delta, seen, inputs.repetition, inputs.min_p)

    def apply(self, logits: Tensor, row: Tensor) -> Tensor:
        """Logits (m, V) of predictions that stand in rows (m,), changed."""
        repetition = self.repetition[row][:, None]
        weakened = torch.where(logits > 0, logits / repetition, logits * repetition)
        return torch.where(self.seen[row], weakened, logits) + self.delta[row]


def adjust(
    proposal: Proposal,
    head: KeptLogits,
    forbidden: Tensor,
    stops: Tensor,
    inputs: AdjustmentInputs,
    changes: Changes,
) -> Proposal:
    """The proposal (M,) with other tokens where adjusted rows want them.

    stops  (V,) bool  ends of text
    """
    if not len(inputs.index):
        return proposal
    parts = (in_chunks(x, forbidden, DRAWING) for x in (inputs.index, *inputs.of_predictions()))
    found = []
    for index, row, endless, *numbers in zip(*parts, strict=True):
        logits = head.at(index)
        barred = forbidden | (stops & endless[:, None])
        allowed = changes.apply(logits, row).masked_fill(barred, -torch.inf)
        ids = _drawn(allowed, numbers, changes.min_p[row]) if inputs.drawing else allowed.argmax(-1)
        confidence = (logits.gather(-1, ids[:, None]).squeeze(-1) - logits.logsumexp(-1)).exp()
        found.append((ids, confidence))
    ids, confidence = (torch.cat(column) for column in zip(*found, strict=True))
    return replace(
        proposal,
        ids=proposal.ids.index_copy(0, inputs.index, ids),
        confidence=proposal.confidence.index_copy(0, inputs.index, confidence),
    )


def _drawn(allowed: Tensor, numbers: Sequence[Tensor], min_p: Tensor) -> Tensor:
    """Token ids (m,), drawn where there is a temperature. The numbers are those of the predictions, without row and
    `endless`."""
    position, seed, temperature, top_p, top_k = numbers
    hot = temperature > 0
    draws = counter_uniform(seed, position, SAMPLING_STREAM)
    ids = drawn_ids(allowed, draws, torch.where(hot, temperature, 1.0), top_p, top_k, min_p)
    return torch.where(hot, ids, allowed.argmax(-1))
