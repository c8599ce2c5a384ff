"""How probable given tokens are under given masks: plain passes, in which nothing is revealed.

Log-probabilities are those of the softmax of the raw logits in float32, as confidence is in decoding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

from unmask.engine.proposal import CHUNK_BYTES
from unmask.models.architecture import Architecture
from unmask.models.packing import Array, NetworkInputs, Segment, Shapes, pack_segments

PASS_TOKENS = 8192  # per pass, so that decoding does not wait long


@dataclass(frozen=True)
class Question:
    """A canvas as the model sees it, masks included, and the tokens to score in some of its columns.

    adapter  the place among the model's adapters of the one to use; None for the weights alone
    prompt   how many of the first columns are the prompt: some models count their blocks from its end, and causal ones
             read it from left to right and the rest as one open block
    """

    seen: tuple[int, ...]
    columns: tuple[int, ...]
    tokens: tuple[int, ...]
    adapter: int | None = None
    prompt: int = 0


@dataclass(frozen=True)
class Scored:
    """Of each column asked for: the log-probability of its token, and the most probable tokens with theirs."""

    log_probabilities: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]


def passes(questions: Sequence[Question]) -> list[list[Question]]:
    """The questions in order, in lots of one pass each."""
    lots: list[list[Question]] = []
    room = 0
    for question in questions:
        if len(question.seen) > room or not lots:
            lots.append([])
            room = PASS_TOKENS
        lots[-1].append(question)
        room -= len(question.seen)
    return lots


def pack_questions(questions: Sequence[Question], architecture: Architecture, shapes: Shapes) -> NetworkInputs:
    """What a pass over some questions, each with at least one column, computes."""
    segments = [
        Segment(
            _array(q.seen),
            0,
            len(q.seen),
            _array(q.columns),
            adapter=q.adapter,
            lead=architecture.lead(q.prompt),
            open=q.prompt,
        )
        for q in questions
    ]
    return pack_segments(segments, architecture, shapes=shapes)


def answers(
    questions: Sequence[Question], hidden: Tensor, head: Callable[[Tensor], Tensor], forbidden: Tensor, top: int
) -> list[Scored]:
    """The answers from the hidden states (M, D) of all their columns in order. The `top` most probable tokens of each
    column are among those that may be proposed: not `forbidden` (V,) bool."""
    wanted = torch.tensor([token for q in questions for token in q.tokens], device=hidden.device)
    chunk = max(1, CHUNK_BYTES // (4 * len(forbidden)))
    found = [
        _look_up(head(part), tokens, forbidden, top)
        for part, tokens in zip(hidden[: len(wanted)].split(chunk), wanted.split(chunk), strict=True)
    ]
    log_p, top_ids, top_log_p = (torch.cat(column).tolist() for column in zip(*found, strict=True))
    scored, start = [], 0
    for question in questions:
        own = slice(start, start := start + len(question.columns))
        tops = [tuple(zip(*pair, strict=True)) for pair in zip(top_ids[own], top_log_p[own], strict=True)]
        scored.append(Scored(tuple(log_p[own]), tuple(tops)))
    return scored


def _look_up(logits: Tensor, tokens: Tensor, forbidden: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """(log p of the tokens (M,), the most probable ids (M, top), their log p) from logits (M, V)."""
    log_p = logits.float().log_softmax(-1)
    best = log_p.masked_fill(forbidden, -torch.inf).topk(top, dim=-1)
    return log_p.gather(-1, tokens[:, None]).squeeze(-1), best.indices, best.values


def _array(values: Sequence[int]) -> Array:
    return np.array(values, dtype=np.int64)


def under_masks(prompt: Sequence[int], completion: Sequence[int], masked: Sequence[int], mask_id: int) -> Question:
    """What the tokens of a completion that are masked are, seen from the prompt and the others."""
    hidden = set(masked)
    region = [mask_id if i in hidden else token for i, token in enumerate(completion)]
    columns = tuple(len(prompt) + i for i in masked)
    return Question((*prompt, *region), columns, tuple(completion[i] for i in masked), prompt=len(prompt))


def left_to_right(tokens: Sequence[int], mask_id: int) -> list[Question]:
    """Each token but the first, seen from those before it, its prompt, while it and what follows are masked."""
    length = len(tokens)
    return [Question((*tokens[:i], *[mask_id] * (length - i)), (i,), (tokens[i],), prompt=i) for i in range(1, length)]


def complementary_pairs(length: int, pairs: int, seed: int) -> list[list[int]]:
    """Masks of which the two of each pair share no position and together have all: coupled-GRPO (DiffuCoder, arXiv
    2506.20639, section 4.2). How many positions the first has is drawn uniformly from 1 to length."""
    random, masks = Random(seed), []
    for _ in range(pairs):
        first = set(random.sample(range(length), random.randint(1, length)))
        masks += [sorted(first), sorted(set(range(length)) - first)]
    return masks


def likelihood_masks(length: int, samples: int, seed: int) -> list[list[int]]:
    """Masks for the Monte-Carlo bound: their sizes are spread evenly over 1 to length from a random start, as in
    LLaDA's published evaluation (arXiv 2502.09992, appendix B.5); which positions is drawn without replacement."""
    random = Random(seed)
    start = random.randrange(length)
    sizes = [(start + i * length // samples) % length + 1 for i in range(samples)]
    return [sorted(random.sample(range(length), size)) for size in sizes]


def coupled(length: int, masks: Sequence[Sequence[int]], log_p: Sequence[Sequence[float]]) -> list[float]:
    """The mean log-probability of each token over the masks that it is under; of complementary pairs and the full
    mask, coupled-GRPO's estimate (DiffuCoder, arXiv 2506.20639, equation 5)."""
    found: list[list[float]] = [[] for _ in range(length)]
    for masked, values in zip(masks, log_p, strict=True):
        for position, value in zip(masked, values, strict=True):
            found[position].append(value)
    return [fmean(values) for values in found]


def likelihood_bound(length: int, sums: Sequence[float], masks: Sequence[Sequence[int]]) -> tuple[float, float | None]:
    """(the estimate of a lower bound of log p(completion | prompt), its standard error).

    The mean of length / masked * sum of log p (LLaDA, arXiv 2502.09992, equation 6). The error takes the masks for
    independent, so it is rather too large than too small; a single mask gives no error.
    """
    values = [length / len(masked) * total for total, masked in zip(sums, masks, strict=True)]
    return fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
