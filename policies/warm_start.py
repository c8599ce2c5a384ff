"""The supervised warm start: a policy learns from the answers of teachers before it is rewarded for its own.

A proposal is right if the finished, correct answer holds it (reference: TraceLock, arXiv 2605.24697). A policy learns
to predict that, or it learns to reveal what its teacher revealed and was right. A policy that reads tokens first learns
which tokens go together.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from unmask.policies.observation import Observation
from unmask.policies.rollout import Rollouts

TEACHERS = ("threshold:threshold=0.7", "threshold:threshold=0.95")  # if the recipe names none
REPLACED = 0.1  # share of proposals that verification replaces
REPLACEMENTS = 8  # updates per batch of verification, each with other replacements
SHOWN = 128  # steps per update of verification
LESSONS, STUDIED = 4, 512  # updates per batch of imitation, times those of the recipe, and steps in each

Lesson = tuple[Observation, Tensor]  # what the policy sees in S steps, and what it should reveal, (S, W) float


def verification(rollouts: Rollouts, good: Tensor, rng: torch.Generator) -> Iterator[Lesson]:
    """Lessons in which tokens go together, from the steps `good` (G,) long of correct answers."""
    for _ in range(REPLACEMENTS):
        shown = good[torch.randperm(len(good), generator=rng)[:SHOWN].to(good.device)]
        yield replaced(rollouts.observation(shown), rollouts.right[shown].float(), rng)


def imitation(
    rollouts: Rollouts, good: Tensor, updates: int, in_hindsight: bool, rng: torch.Generator
) -> Iterator[Lesson]:
    """Lessons in which proposals are right or, `in_hindsight`, in what was worth revealing.

    Their number does not depend on the rollouts: several processes take the same number of steps.
    """
    wanted = followed(rollouts) if in_hindsight else rollouts.right.float()
    for _ in range(updates * LESSONS):
        shown = good[torch.randperm(len(good), generator=rng)[:STUDIED].to(good.device)]
        yield rollouts.observation(shown), wanted[shown]


def replaced(seen: Observation, wanted: Tensor, rng: torch.Generator) -> tuple[Observation, Tensor]:
    """Replace some proposals by tokens from other positions of the same answer, and hide the confidence.

    Returns what the policy sees, and `wanted` (S, W) float with 0 for the replaced ones. Then only the tokens
    show which are wanted. This is ELECTRA's replaced token detection (arXiv 2003.10555).
    """
    steps, width = wanted.shape
    device = wanted.device
    hit = (torch.rand(steps, width, generator=rng).to(device) < REPLACED) & seen.eligible
    places = torch.rand(steps, width, generator=rng).to(device) * seen.seen.sum(1, keepdim=True)
    others = seen.tokens.gather(1, places.long())
    tokens = torch.where(hit, others, seen.tokens)
    return replace(seen, tokens=tokens, confidence=torch.zeros_like(seen.confidence)), wanted * (tokens == seen.tokens)


def followed(rollouts: Rollouts) -> Tensor:
    """What was worth revealing in hindsight, (S, W) float: what the teacher revealed and was right; everything, where
    all proposals were right.

    Its probability for a position that the teacher would not reveal thus becomes the probability that all are right.
    """
    clean = (rollouts.right | ~rollouts.steps["eligible"]).all(1, keepdim=True)
    return (rollouts.steps["chosen"] & rollouts.right | clean).float()
