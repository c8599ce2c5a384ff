"""Rewards, advantages and losses of policy training, as pure functions (arXiv 2512.09106, section 4 and appendix).

N trajectories, each of which took several of the S steps of a batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def multiplicative_reward(correct: Tensor, steps: Tensor, length: Tensor, alpha: Tensor | float) -> Tensor:
    """1[correct] * ((L - min(steps, L) + 1) / L) ** alpha, all (N,). The larger alpha, the more speed is worth."""
    return correct.float() * ((length - torch.minimum(steps, length) + 1) / length) ** alpha


def additive_reward(correct: Tensor, steps: Tensor, length: Tensor, alpha: Tensor | float) -> Tensor:
    """1[correct] - alpha * steps / L: the paper's ablation, under which fast wrong answers beat slow wrong ones."""
    return correct.float() - alpha * steps / length


def advantages(rewards: Tensor, group: int) -> Tensor:
    """Reward minus the mean of its group, (N,): groups lie one after another. Not divided by their deviation."""
    grouped = rewards.unflatten(0, (-1, group))
    return (grouped - grouped.mean(1, keepdim=True)).flatten()


def mixed(log_likelihood: Tensor, expert: Tensor, group: int) -> Tensor:
    """Log-likelihood (S,) under the mixture of policy and expert, for the steps that the expert took (S,) bool.

    Expert steering: log( G / (G + 1) * pi + 1 / (G + 1) ), with G rollouts of the policy and one of the expert.
    """
    weight = math.log(group / (group + 1))
    other = torch.full_like(log_likelihood, -math.log(group + 1))
    return torch.where(expert, torch.logaddexp(log_likelihood + weight, other), log_likelihood)


def step_weights(trajectory: Tensor, trajectories: int) -> Tensor:
    """What each step (S,) counts, so that a sum over steps is the mean over trajectories of the mean over their steps.

    trajectory (S,) long, to which of the N each step belongs.
    """
    steps = torch.bincount(trajectory, minlength=trajectories)
    return 1 / (steps[trajectory] * trajectories)


def clipped_loss(new: Tensor, old: Tensor, advantage: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """GRPO with one ratio a step, to be minimised, (). All are (S,).

    new, old  log-likelihoods of what was chosen, by the network as it is and as it was
    advantage of the trajectory that the step belongs to
    weight    of the step, see `step_weights`
    """
    ratio = (new - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)
    return -(surrogate * weight).sum()


def imitation_loss(logits: Tensor, eligible: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy, (): a position should be revealed now with probability `wanted`.

    logits, wanted (S, W) float; eligible (S, W) bool. The mean over eligible positions.
    """
    loss = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (loss * eligible).sum() / eligible.sum().clamp(min=1)
