"""The scheduler `policy`: reveals what a learned policy chooses."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.policies.choice import bernoulli, expected, likely, or_best, plackett_luce
from unmask.policies.network import PolicyNetwork
from unmask.policies.observation import Observation, needs_of
from unmask.policies.store import find_policy, load_policy
from unmask.schedulers import Decision, Needs, State, View, option

CERTAIN = {"likely": likely, "expected": expected}  # the modes without chance
MODES = (*CERTAIN, "bernoulli-argmax", "bernoulli", "dpls")
FASTEST = 16.0  # factor on the probabilities of a policy without the input speed, at speed 1; its inverse at 0


@dataclass(frozen=True)
class PolicyOptions:
    policy: str = option("any-speed", "a shipped policy, or a folder with model.safetensors and policy.json")
    mode: str = option(
        "likely",
        "how logits become choices: likely takes each position with a probability above one half, or the best; "
        "expected takes as many as the probabilities sum up to, the highest first; "
        "bernoulli-argmax each position with its probability, or the best if none was taken; bernoulli leaves that "
        "to the engine; dpls draws one by one",
        choices=MODES,
    )
    temperature: float = option(1.0, "divides the logits: below 1 sharpens, above 1 is more random", minimum=0.01)
    speed: float = option(
        0.5,
        "from 0, careful, to 1, everything at once; at 0.5 a policy that was trained for it takes about twice as many "
        "passes as at 1, in the mean of what it was trained on. Others multiply their probabilities, and "
        "in mode likely their odds, by 16 ** (2 speed - 1), so that 0.5 leaves them as they are",
        minimum=0.0,
        maximum=1.0,
        fast=0.8,
    )

    def __post_init__(self) -> None:
        load_policy(find_policy(self.policy))


class LearnedPolicy:
    """Reveals what a network, trained by reinforcement learning, chooses from masks, probabilities and time.

    Formula: each eligible position with factor * exp(logit_i / temperature) > 1, or the best one; other modes sum up or
    draw p_i = min(1, factor * sigmoid(logit_i / temperature)), see `policies/choice.py`. Source: Learning Unmasking
    Policies for Diffusion Language Models (arXiv 2512.09106, section 4), which draws. Defaults: the shipped policy
    any-speed, without chance.
    """

    Options = PolicyOptions
    needs: Needs  # depends on the policy

    def __init__(self, policy: str, mode: str):
        self._policy = load_policy(find_policy(policy))
        self._mode = mode
        self._networks: dict[torch.device, PolicyNetwork] = {}
        self.needs = needs_of(self._policy.network, self._policy.config)

    def decide(self, view: View, state: State) -> Decision:
        network = self._network_on(view.mask.device)
        observation = Observation.of(view, network, self._policy.config)
        logits = observation.logits(network) / view.option("temperature")
        factor = 1.0 if network.shape.speed else FASTEST ** (2 * view.option("speed") - 1)
        return observation.decision(
            choose(self._mode, logits, view, observation.eligible, factor)[0], self._policy.config
        )

    def _network_on(self, device: torch.device) -> PolicyNetwork:
        if device not in self._networks:
            self._networks[device] = copy.deepcopy(self._policy.network).to(device)
        return self._networks[device]


def choose(
    mode: str, logits: Tensor, view: View, decided: Tensor, factor: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """(chosen, order), both (B, W): the masks to reveal, and of revealed positions those to keep.

    decided (B, W) bool, the positions to choose from; `order` says in which order dpls drew, and is zeros otherwise.
    """
    revealed, draws = decided & ~view.mask, view.uniform()
    kept = (logits > 0) & revealed if mode in CERTAIN else bernoulli(logits, revealed, draws)
    chosen, order = _reveal(mode, logits, view, draws, factor)
    return chosen | kept, order


def _reveal(mode: str, logits: Tensor, view: View, draws: Tensor, factor: Tensor | float) -> tuple[Tensor, Tensor]:
    eligible, unordered = view.eligible, torch.zeros_like(logits)
    if mode in CERTAIN:
        return CERTAIN[mode](logits, eligible, factor), unordered
    if mode == "dpls":
        # One more column than the view has, for "stop"; it draws as a position before the first would.
        stop = view.uniform(2)[:, :1]
        return plackett_luce(logits, eligible, torch.stack([torch.cat([view.uniform(i), stop], -1) for i in (0, 1)]))
    chosen = bernoulli(logits, eligible, draws, factor)
    return (or_best(chosen, logits, eligible) if mode == "bernoulli-argmax" else chosen), unordered
