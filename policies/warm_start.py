"""What a policy learns from answers that others gave, before it is rewarded for its own.

A proposal is right when it is what a correct answer ends up with (reference: TraceLock, arXiv 2605.24697), and a policy
starts as a judge of that; or it follows a teacher, and learns when to do without. One that reads tokens first learns
which of them go together.
"""

from dataclasses import replace

import torch
from torch import Tensor

from unmask.policies.observation import Observation
from unmask.policies.rollout import Rollouts

TEACHERS = ("threshold:threshold=0.7", "threshold:threshold=0.95")  # who answers, where the recipe names nobody
REPLACED = 0.1  # share of proposals
REPLACEMENTS = 8  # updates on the same answers, with other tokens replaced each time,
SHOWN = 128  # in so many of their steps


def replaced(seen: Observation, wanted: Tensor, rng: torch.Generator) -> tuple[Observation, Tensor]:
    """Some proposals replaced by tokens from other places of the same answer, and nothing said of confidence.

    What is left to tell which are wanted, (S, W) float, 0 for the replaced ones, is what they are and whether they go
    together. Replaced token detection is ELECTRA's (arXiv 2003.10555).
    """
    steps, width = wanted.shape
    device = wanted.device
    hit = (torch.rand(steps, width, generator=rng).to(device) < REPLACED) & seen.eligible
    places = torch.rand(steps, width, generator=rng).to(device) * seen.seen.sum(1, keepdim=True)
    others = seen.tokens.gather(1, places.long())
    tokens = torch.where(hit, others, seen.tokens)
    return replace(seen, tokens=tokens, confidence=torch.zeros_like(seen.confidence)), wanted * (tokens == seen.tokens)


def followed(rollouts: Rollouts) -> Tensor:
    """What was worth revealing in hindsight, (S, W) float: of what a teacher revealed all that proved right; and
    everything at once, where everything did.

    How sure a policy comes to be of a position that the teacher would leave is how sure it is that nothing is wrong.
    """
    clean = (rollouts.right | ~rollouts.steps["eligible"]).all(1, keepdim=True)
    return (rollouts.steps["chosen"] & rollouts.right | clean).float()
