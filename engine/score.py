"""Scores of a completion: which of its tokens each pass masks, and what the log-probabilities add up to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from unmask.engine.errors import RequestError
from unmask.engine.scoring import (
    Question,
    Scored,
    complementary_pairs,
    coupled,
    likelihood_bound,
    likelihood_masks,
    under_masks,
)

Positions = Sequence[int]


@dataclass(frozen=True)
class PatternScore:
    """The masked tokens of one pattern: their positions and log-probabilities."""

    masked: list[int]
    log_probabilities: list[float]
    sum: float


@dataclass(frozen=True)
class CoupledScore:
    """Coupled-GRPO's estimate (DiffuCoder, arXiv 2506.20639) for each token, and the masks that were drawn."""

    masks: list[list[int]]
    log_probabilities: list[float]
    sum: float


@dataclass(frozen=True)
class LikelihoodScore:
    """The bound of the log-likelihood (LLaDA, arXiv 2502.09992, equation 6), in nats; one sample has no error."""

    samples: int
    log_likelihood: float
    standard_error: float | None


@dataclass(frozen=True)
class Score:
    """How probable a completion is. Scores that were not asked for are None.

    token_ids       of the completion
    patterns        in the order of the request
    forward_passes  canvases that were computed
    """

    token_ids: tuple[int, ...]
    patterns: list[PatternScore] | None
    coupled: CoupledScore | None
    likelihood: LikelihoodScore | None
    forward_passes: int


@dataclass(frozen=True)
class Masks:
    """The positions of a completion that are masked, one list per pass. One of a pair may be empty, and is then not
    computed."""

    length: int
    patterns: list[list[int]]
    pairs: list[list[int]]
    samples: list[list[int]]

    @property
    def coupled(self) -> list[list[int]]:
        """The masks to compute for the pairs, the full mask last."""
        return [*(mask for mask in self.pairs if mask), [*range(self.length)]] if self.pairs else []

    def questions(self, prompt: Sequence[int], completion: Sequence[int], mask_id: int) -> list[Question]:
        """One question per pass, for `score`."""
        return [
            under_masks(prompt, completion, mask, mask_id) for mask in (*self.patterns, *self.coupled, *self.samples)
        ]

    def score(self, completion: Sequence[int], scored: Sequence[Scored]) -> Score:
        """The scores, from the answers to the questions."""
        found = iter([list(one.log_probabilities) for one in scored])
        patterns = [
            PatternScore(mask, values, sum(values))
            for mask, values in zip(self.patterns, islice(found, len(self.patterns)), strict=True)
        ]
        pairs = _coupled(self, list(islice(found, len(self.coupled))))
        return Score(tuple(completion), patterns or None, pairs, _likelihood(self, list(found)), len(scored))


def passes_asked(patterns: Sequence[Positions] | None, pairs: int, samples: int) -> int:
    """How many passes are asked for, at most."""
    shown = len(patterns) if patterns else int(not pairs and not samples)
    return shown + (2 * pairs + 1 if pairs else 0) + samples


def check_patterns(patterns: Sequence[Positions], length: int) -> None:
    """Raise RequestError unless each pattern holds positions of a completion of `length` tokens, each once."""
    for i, positions in enumerate(patterns):
        # In this order: a set of very large integers can take long to build.
        outside = not 0 < len(positions) <= length or min(positions) < 0 or max(positions) >= length
        if outside or len(set(positions)) < len(positions):
            raise RequestError(
                f"field 'patterns.{i}' must hold different positions from 0 to {length - 1}", f"patterns.{i}"
            )


def draw_masks(length: int, patterns: Sequence[Positions] | None, pairs: int, samples: int, seed: int) -> Masks:
    """The masks for a completion of `length` tokens.

    patterns  positions from 0, one list per pass; if nothing is asked for at all, one with every position
    pairs     pairs of complementary masks for coupled-GRPO's estimate
    samples   masks for the bound of the log-likelihood
    seed      of the masks that are drawn
    """
    shown = [list(one) for one in patterns or ()] or ([[*range(length)]] if not pairs and not samples else [])
    return Masks(length, shown, complementary_pairs(length, pairs, seed), likelihood_masks(length, samples, seed))


def _coupled(masks: Masks, log_p: Sequence[Sequence[float]]) -> CoupledScore | None:
    if not masks.pairs:
        return None
    estimate = coupled(masks.length, masks.coupled, log_p)
    return CoupledScore(masks.pairs, estimate, sum(estimate))


def _likelihood(masks: Masks, log_p: Sequence[Sequence[float]]) -> LikelihoodScore | None:
    if not masks.samples:
        return None
    bound, error = likelihood_bound(masks.length, [sum(values) for values in log_p], masks.samples)
    return LikelihoodScore(len(masks.samples), bound, error)
