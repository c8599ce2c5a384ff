"""Between proposal and scheduler: the proposals of structured rows become those of the best text that they may hold.

A row's score of a token is its log-probability or, with a temperature, that over the temperature plus Gumbel noise.
The token with the highest such score is a draw from the softmax (Gumbel, 1954), so where the structure leaves all
tokens, tokens are drawn as elsewhere; where it does not, the text with the highest sum is taken
(perturb-and-MAP, Papandreou and Yuille, ICCV 2011). Tokens that top-p or top-k exclude are taken only if no
other text remains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from unmask.engine.adjustment.adjust import Changes
from unmask.engine.proposal import DRAWING, SAMPLING_STREAM, KeptLogits, Proposal, in_chunks
from unmask.engine.structure.automaton import Tables
from unmask.engine.structure.paths import Union, best_paths
from unmask.schedulers import counter_uniform
from unmask.schedulers.base import wide

LOWEST = -1e12  # score of a token that the model excludes; the text may still need it
EXCLUDED = 1e4  # less is the score of a token that top-p or top-k excludes


@dataclass(frozen=True)
class Noise:
    """How tokens are drawn, per prediction; n predictions.

    seed, position  (n,) long  name the random numbers
    temperature, top_p (n,) float32, 0 and 1 where nothing is drawn; top_k (n,) long, 0 for all
    min_p           (n,) float32  as in `Adjustment`
    """

    seed: Tensor
    position: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor


@dataclass(frozen=True)
class StructureInputs:
    """What structured rows need on the device at one step: R rows, n predictions, f revealed tokens in their windows.

    Windows end at column W; narrower ones begin later.

    index         (n,) long  which of the M predictions
    row, column   (n,) long  where each stands
    fixed_row, fixed_column, fixed_token  (f,) long  the revealed tokens
    state, begin, left  (R,) long  as in `best_paths`
    width         W
    classes       the most classes of a row
    widest        the most transitions of a state
    noise         None if nothing is drawn
    """

    index: Tensor
    row: Tensor
    column: Tensor
    fixed_row: Tensor
    fixed_column: Tensor
    fixed_token: Tensor
    state: Tensor
    begin: Tensor
    left: Tensor
    width: int
    classes: int
    widest: int
    noise: Noise | None


def constrain(
    proposal: Proposal,
    head: KeptLogits,
    forbidden: Tensor,
    inputs: StructureInputs,
    tables: Sequence[Tables],
    changes: Changes | None = None,
    adjusted: Tensor | None = None,
) -> Proposal:
    """The proposal (M,) with the tokens of structured rows, and the confidence in these. `tables` are of the R rows.

    changes, adjusted  of the logits, and the row in them of each of the R rows (R,) long; None if no row is adjusted
    """
    classes = inputs.classes
    union = Union.of(tables, classes, inputs.widest)
    class_of = torch.stack([table.class_of.clamp(max=classes) for table in tables])  # (R, V)
    amended = None if changes is None or adjusted is None else (changes, adjusted)
    chunks = list(zip(*(in_chunks(x, forbidden, DRAWING) for x in _of_predictions(inputs)), strict=True))
    score = partial(_scored, head, class_of, classes, amended)
    kept = score(*chunks[0]) if len(chunks) == 1 else None  # of several, the memory is not there
    values = torch.cat([(kept or score(*chunk)).best(classes) for chunk in chunks])
    scores = torch.full((inputs.width, len(tables), classes), -torch.inf, dtype=values.dtype, device=values.device)
    scores.index_put_((inputs.column, inputs.row), values)
    fixed = class_of[inputs.fixed_row, inputs.fixed_token]
    scores.index_put_((inputs.fixed_column, inputs.fixed_row, fixed), torch.zeros_like(fixed, dtype=scores.dtype))
    paths = best_paths(union, scores, inputs.state, inputs.begin, inputs.left)[inputs.row, inputs.column]
    wanted = paths.split([len(chunk[0]) for chunk in chunks])
    found = [(kept or score(*chunk)).tokens(chosen) for chunk, chosen in zip(chunks, wanted, strict=True)]
    ids, confidence = (torch.cat(column) for column in zip(*found, strict=True))
    return replace(
        proposal,
        ids=proposal.ids.index_copy(0, inputs.index, ids),
        confidence=proposal.confidence.index_copy(0, inputs.index, confidence),
    )


@dataclass(frozen=True)
class _Scored:
    """Some predictions: logits (m, V), scores (m, V), by which tokens are chosen, and the class of each token (m, V), C
    for tokens that no text has."""

    logits: Tensor
    scores: Tensor
    class_of: Tensor

    def best(self, classes: int) -> Tensor:
        """The highest score of each class, (m, C) float64."""
        best = torch.full((len(self.scores), classes + 1), -torch.inf, device=self.scores.device)
        best.scatter_reduce_(1, self.class_of, self.scores, "amax")
        return wide(best[:, :classes].nan_to_num(LOWEST, neginf=LOWEST))

    def tokens(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The best token of the chosen class of each prediction (m,), and the probability of each."""
        others = self.class_of != chosen[:, None]
        ids = self.scores.clamp(min=LOWEST).masked_fill_(others, -torch.inf).argmax(-1, keepdim=True)
        log_p = self.logits.gather(1, ids) - self.logits.logsumexp(-1, keepdim=True)
        return ids.squeeze(1), log_p.exp().squeeze(1)


def _of_predictions(inputs: StructureInputs) -> tuple[Tensor, ...]:
    """What there is one of per prediction: its index, its row, and how it is drawn, if any is."""
    return inputs.index, inputs.row, *(() if inputs.noise is None else vars(inputs.noise).values())


def _scored(
    head: KeptLogits,
    class_of: Tensor,
    classes: int,
    amended: tuple[Changes, Tensor] | None,
    index: Tensor,
    row: Tensor,
    *numbers: Tensor,
) -> _Scored:
    """Some predictions, by their index and row; class_of (R, V). A score is defined up to a number per prediction, as
    each text has one token there."""
    logits = head.at(index)
    scores = logits if amended is None else amended[0].apply(logits, amended[1][row])
    of_row = class_of.expand(len(row), -1) if len(class_of) == 1 else class_of[row]
    if numbers:
        scores = _perturbed(scores, of_row == classes, Noise(*numbers))
    return _Scored(logits, scores, of_row)


def _perturbed(score: Tensor, silent: Tensor, noise: Noise) -> Tensor:
    """Scores (m, V) with noise where there is a temperature; silent (m, V) bool, tokens that no text has."""
    score = score.nan_to_num(LOWEST, neginf=LOWEST)
    drawn = noise.temperature > 0
    scaled = score / torch.where(drawn, noise.temperature, 1.0)[:, None]
    counter = noise.position[:, None] * score.shape[1] + torch.arange(score.shape[1], device=score.device)
    uniform = counter_uniform(noise.seed[:, None], counter, SAMPLING_STREAM).clamp(min=2.0**-25)
    gumbel = -(-uniform.log()).log()
    excluded = _excluded(scaled.masked_fill(silent, -torch.inf), noise)
    return torch.where(drawn[:, None], scaled + gumbel - EXCLUDED * excluded, score)


def _excluded(scaled: Tensor, noise: Noise) -> Tensor:
    """What top-k, min-p and top-p exclude of the tokens with text, (m, V) bool."""
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    too_low = (rank >= noise.top_k[:, None]) & (noise.top_k[:, None] > 0)
    too_low |= values < values[:, :1] + noise.min_p[:, None].log()
    p = values.masked_fill(too_low, -torch.inf).softmax(-1)
    beyond = (p.cumsum(-1) - p >= noise.top_p[:, None]) & (noise.top_p[:, None] < 1)
    return torch.zeros_like(too_low).scatter(1, order, (too_low | beyond) & (rank > 0))
