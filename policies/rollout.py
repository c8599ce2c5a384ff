"""Rollouts: problems answered through the engine, with a scheduler that records what the policy saw and chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from unmask.engine.engine import Engine
from unmask.engine.request import Request, Result, fit_block_length
from unmask.evals.prompts import prompt_ids
from unmask.evals.tasks import Problem, Task, grade_all
from unmask.models.loading import Model
from unmask.policies.choice import bernoulli_log_likelihood, plackett_luce_log_likelihood
from unmask.policies.network import PolicyNetwork
from unmask.policies.observation import Observation, needs_of
from unmask.policies.scheduler import choose
from unmask.policies.store import PolicyConfig
from unmask.schedulers import Decision, SchedulerSpec, State, View


@dataclass(frozen=True)
class SpeedOption:
    """The one option that differs between rollouts."""

    speed: float = 0.5


class RecordingScheduler:
    """A scheduler that chooses by a network in training, or by an expert, and records the network's view of it.

    Recorded, beside the fields of `Observation`: `chosen` and `order` (B, W), and `log_likelihood` (B,), of the choice
    by the network.

    blockless  an expert's choices are recorded as choices among all masks, not those of its block, so that the
               network learns them without blocks
    """

    Options: ClassVar[type[Any]] = SpeedOption

    def __init__(
        self,
        network: PolicyNetwork,
        config: PolicyConfig,
        mode: str,
        expert: SchedulerSpec | None = None,
        blockless: bool = False,
    ):
        self._network, self._config, self._mode, self.expert, self._blockless = network, config, mode, expert, blockless
        self.needs = needs_of(network, config)

    def decide(self, view: View, state: State) -> Decision:
        observation = Observation.of(view, self._network, self._config)
        logits = observation.logits(self._network)
        if self.expert is None:
            chosen, order = choose(self._mode, logits, view, observation.eligible)
        else:
            kept = observation.eligible & ~view.mask
            chosen, order = _expert_choice(self.expert, view) | kept, torch.zeros_like(logits)
            if self._blockless:
                observation = replace(observation, eligible=view.mask | kept)
        likelihood = log_likelihood(self._mode, logits, observation.eligible, chosen, order)
        record = {"chosen": chosen, "order": order, "log_likelihood": likelihood}
        return replace(observation.decision(chosen, self._config), record={**observation.tensors(), **record})


def _expert_choice(expert: SchedulerSpec, view: View) -> Tensor:
    """What a scheduler without state would reveal, (B, W)."""
    rows, device = view.step.shape, view.step.device
    options = {name: torch.full(rows, value, device=device) for name, value in expert.numeric.items()}
    return expert.scheduler().decide(replace(view, options=options), {}).reveal & view.eligible


def log_likelihood(mode: str, logits: Tensor, eligible: Tensor, chosen: Tensor, order: Tensor) -> Tensor:
    """How likely a network with these logits was to choose so, (B,)."""
    if mode == "dpls":
        return plackett_luce_log_likelihood(logits, eligible, order)
    return bernoulli_log_likelihood(logits, eligible, chosen)


@dataclass(frozen=True)
class Episode:
    """One rollout: a problem of a task, the wanted speed, and the scheduler that chooses."""

    task: Task
    problem: Problem
    speed: float
    recorder: RecordingScheduler
    block_length: int


@dataclass(frozen=True)
class Rollouts:
    """N finished answers and the S steps that they took.

    steps       by name, what `RecordingScheduler` records, (S, ...); W is that of the longest
    trajectory  (S,) long    the answer that each step belongs to
    right       (S, W) bool  whether the token, revealed or proposed, is that of the finished answer
    correct, expert (N,) bool; passes, length (N,) long; speed (N,) float32
    """

    steps: dict[str, Tensor]
    trajectory: Tensor
    right: Tensor
    correct: Tensor
    expert: Tensor
    passes: Tensor
    length: Tensor
    speed: Tensor

    def observation(self, index: Tensor | slice) -> Observation:
        """What the network saw at some of the steps."""
        return Observation(**{name: self.steps[name][index] for name in Observation.__dataclass_fields__})


def roll_out(engine: Engine, episodes: Sequence[Episode], seed: int) -> Rollouts:
    """Answer all problems side by side. `seed` and the place in `episodes` decide what is drawn."""
    model = engine.model
    requests = [_request(model, i, episode, seed) for i, episode in enumerate(episodes)]
    records: dict[str, list[Mapping[str, Tensor]]] = {request.id: [] for request in requests}
    results: dict[str, Result] = {}
    for step in engine.run(requests):
        records[step.request_id].append(step.record)
        if step.result is not None:
            results[step.request_id] = step.result
    steps = _stacked([record for request in requests for record in records[request.id]])
    counts = torch.tensor([len(records[request.id]) for request in requests], device=model.device)
    trajectory = torch.repeat_interleave(torch.arange(len(episodes), device=model.device), counts)
    found = [results[request.id] for request in requests]

    def tensor(values: list[Any]) -> Tensor:
        return torch.tensor(values, device=model.device)

    return Rollouts(
        steps=steps,
        trajectory=trajectory,
        right=_right(model, steps, trajectory, found, episodes),
        correct=tensor(grade_all([episode.problem for episode in episodes], [result.text for result in found])),
        expert=tensor([episode.recorder.expert is not None for episode in episodes]),
        passes=tensor([result.forward_passes for result in found]),
        length=tensor([episode.task.max_tokens for episode in episodes]),
        speed=tensor([episode.speed for episode in episodes]),
    )


def _request(model: Model, i: int, episode: Episode, seed: int) -> Request:
    """The request of an episode, with the paper's limit: as many passes as tokens."""
    spec = SchedulerSpec("policy", SpeedOption(episode.speed), episode.recorder)
    prompt, length = prompt_ids(model, episode.problem), episode.task.max_tokens
    block_length = fit_block_length(episode.block_length, length, model.network.architecture)
    return Request(str(i), prompt, length, block_length, spec, seed=seed + i, max_forward_passes=length)


def _stacked(records: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """All steps in one tensor each; rows of a width are padded with zeros to the widest."""
    width = max(record["mask"].shape[0] for record in records)

    def padded(x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[0] == width:
            return x
        return torch.cat([x, x.new_zeros(width - x.shape[0], *x.shape[1:])])

    return {name: torch.stack([padded(record[name]) for record in records]) for name in records[0]}


def _right(
    model: Model, steps: Mapping[str, Tensor], trajectory: Tensor, found: Sequence[Result], episodes: Sequence[Episode]
) -> Tensor:
    """Which tokens are those of the finished answer; after its end, any end of text."""
    longest = max(episode.task.max_tokens for episode in episodes)
    final = torch.full((len(episodes), longest), -1, device=model.device)
    for row, result in enumerate(found):
        final[row, : len(result.token_ids)] = torch.tensor(result.token_ids)
    there = final[trajectory].gather(1, steps["positions"].clamp(max=longest - 1))
    ends = torch.isin(steps["tokens"], torch.tensor(sorted(model.stop_ids), device=model.device))
    return torch.where(there < 0, ends, steps["tokens"] == there)
