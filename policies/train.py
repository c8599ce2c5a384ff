"""Policy training, in the order of the paper (arXiv 2512.09106, section 4): roll out, reward, compare, update twice.

Before it, on request, a supervised warm start. The language model is frozen; only the policy learns.

Everything drawn depends on the seed, the batch and the process, so a run that was killed continues exactly.
"""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from unmask.engine.engine import Engine
from unmask.evals.tasks import Task, find_task
from unmask.models.loading import Model
from unmask.policies.choice import bernoulli_entropy
from unmask.policies.network import PolicyNetwork
from unmask.policies.objective import (
    additive_reward,
    advantages,
    clipped_loss,
    imitation_loss,
    mixed,
    multiplicative_reward,
    step_weights,
)
from unmask.policies.recipe import CannotLearnError, PolicyRecipe
from unmask.policies.rollout import Episode, RecordingScheduler, Rollouts, log_likelihood, roll_out
from unmask.policies.run_state import append_log, cut_log, load_state, save_state
from unmask.policies.speeds import SLOWEST, calibrate
from unmask.policies.store import find_policy, load_policy, save_policy
from unmask.policies.warm_start import TEACHERS, imitation, verification
from unmask.schedulers import parse_scheduler_text

CHUNK = 512  # steps that go through the network at once
NO_SIGNAL = 1e-6  # advantages below are rounding
PATIENCE = 20  # batches in a row without signal
EXPERT, EXPERT_BLOCK = "threshold:threshold=0.9", 32  # the paper's: Fast-dLLM, block 32 whatever the policy's
BETAS, WEIGHT_DECAY, GRADIENT_NORM = (0.9, 0.99), 0.1, 0.2
ALPHAS = (0.1, 30.0)  # alpha of an any-speed policy at speed 0 and at speed 1, geometric in between


class PolicyTrainer:
    """The state of one run: network, optimizer, batch. It continues from the state saved in `out`, if there is one."""

    def __init__(self, recipe: PolicyRecipe, model: Model, out: Path, rows: int = 64):
        recipe.check()
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self._idle = recipe, out, 0
        self._accelerator = Accelerator(cpu=model.device.type == "cpu")
        self._engine = Engine(model, max_rows=rows, memory_fraction=0.01, static=False)
        self.network = PolicyNetwork(recipe.shape).to(model.device)
        self.network.start_at(recipe.start)
        if recipe.initial:
            self._go_on_from(recipe.initial)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY)
        self.batch = load_state(out, recipe, self.network, self._optimizer)
        if self.is_main:
            cut_log(out, self.batch)

    @property
    def total(self) -> int:
        """All batches, those of the warm start included."""
        return self.recipe.warm + self.recipe.batches

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self._accelerator.is_main_process)

    def run(self, save_every: int, on_batch: Callable[[dict[str, float]], None] = lambda figures: None) -> None:
        """Train from the current batch to the last, saving and logging as it goes. Raises CannotLearnError."""
        while self.batch < self.total:
            started = time.perf_counter()
            if self.batch == self.recipe.warm:
                self._calibrate_speeds()
            figures = self._warm_up() if self.batch < self.recipe.warm else self._reinforce()
            self.batch += 1
            if self.batch == self.total:
                self._calibrate_speeds()
            figures |= {"batch": self.batch, "seconds": time.perf_counter() - started}
            if self.is_main:
                append_log(self.out, figures)
                if self.batch % save_every == 0 or self.batch == self.total:
                    self.save()
            on_batch(figures)

    def save(self) -> None:
        """Write the policy and what resuming needs."""
        save_policy(self.out, self.network, self.recipe.config)
        save_state(self.out, self.recipe, self.batch, self.network, self._optimizer)

    def _go_on_from(self, name: str) -> None:
        """Take over the weights of another policy. Raises OptionError or CannotLearnError."""
        other, config = load_policy(find_policy(name)), self.recipe.config
        theirs, ours = other.network.state_dict(), self.network.state_dict()
        wrong = [key for key, tensor in theirs.items() if key not in ours or ours[key].shape != tensor.shape]
        wrong += [key for key in ("heads", "confidence") if getattr(other.config, key) != getattr(config, key)]
        if wrong:
            raise CannotLearnError(
                f"policy {name!r} differs in {', '.join(wrong)}; train with the settings that made it (see its card)"
            )
        self.network.load_state_dict(theirs, strict=False)

    # --- supervised warm start

    def _warm_up(self) -> dict[str, float]:
        """One batch of answers by teachers; the correct ones are the lessons."""
        recipe = self.recipe
        rollouts = self._roll_out(self._taught())
        good = rollouts.correct[rollouts.trajectory].nonzero()[:, 0]
        rng = torch.Generator().manual_seed(self._seed())
        if self.batch < recipe.verification:
            lessons = verification(rollouts, good, rng)
        else:
            lessons = imitation(rollouts, good, recipe.updates, bool(recipe.teacher), rng)
        losses = []
        for seen, wanted in lessons:
            loss = imitation_loss(seen.logits(self.network), seen.eligible, wanted)
            loss.backward()
            self._step()
            losses.append(loss.item())
        return {"imitation_loss": losses[0], **_figures(rollouts.correct, rollouts.passes)}

    def _taught(self) -> list[Episode]:
        """Problems for the teachers, which take turns."""
        recipe = self.recipe
        names, blockless = recipe.teacher or TEACHERS, bool(recipe.teacher_block)
        teachers = [
            RecordingScheduler(self.network, recipe.config, "bernoulli", parse_scheduler_text(name), blockless)
            for name in names
        ]
        return [
            Episode(task, problem, speed, teachers[i % len(teachers)], recipe.teacher_block or block_length)
            for i, (task, problem, speed, block_length) in enumerate(self._problems(recipe.prompts * recipe.group))
        ]

    # --- reinforcement learning

    def _reinforce(self) -> dict[str, float]:
        """One batch of rollouts and the updates on it."""
        rollouts = self._roll_out(self._episodes())
        reward = self._reward(rollouts)
        advantage = advantages(reward, self.recipe.group + self.recipe.steering)
        self._watch(advantage)
        for _ in range(self.recipe.updates):
            entropy = self._update(rollouts, advantage)
        own = ~rollouts.expert
        figures = _figures(rollouts.correct[own], rollouts.passes[own])
        return {"reward": reward.mean().item(), "entropy": entropy, **figures}

    def _episodes(self) -> list[Episode]:
        policy = RecordingScheduler(self.network, self.recipe.config, self.recipe.mode)
        expert = RecordingScheduler(
            self.network, self.recipe.config, self.recipe.mode, parse_scheduler_text(EXPERT), True
        )
        episodes = []
        for task, problem, speed, block_length in self._problems(self.recipe.prompts):
            episodes += [Episode(task, problem, speed, policy, block_length)] * self.recipe.group
            if self.recipe.steering:
                episodes.append(Episode(task, problem, speed, expert, EXPERT_BLOCK))
        return episodes

    def _reward(self, rollouts: Rollouts) -> Tensor:
        slowest, fastest = ALPHAS
        alpha = (
            slowest ** (1 - rollouts.speed) * fastest**rollouts.speed if self.recipe.any_speed else self.recipe.alpha
        )
        of = multiplicative_reward if self.recipe.reward == "multiplicative" else additive_reward
        return of(rollouts.correct, rollouts.passes, rollouts.length, alpha)

    def _update(self, rollouts: Rollouts, advantage: Tensor) -> float:
        """One optimizer step on all steps with an advantage. Returns the mean entropy of the choices, in nats."""
        weight = step_weights(rollouts.trajectory, len(advantage))
        gain = advantage[rollouts.trajectory]
        telling = (gain.abs() > NO_SIGNAL).nonzero()[:, 0]
        entropy = torch.zeros((), device=gain.device)
        for index in telling.split(CHUNK):
            logits = rollouts.observation(index).logits(self.network)
            chosen, order, eligible = (rollouts.steps[name][index] for name in ("chosen", "order", "eligible"))
            new = log_likelihood(self.recipe.mode, logits, eligible, chosen, order)
            old = rollouts.steps["log_likelihood"][index]
            expert = rollouts.expert[rollouts.trajectory[index]]
            new, old = (mixed(value, expert, self.recipe.group) for value in (new, old))
            clipped_loss(new, old, gain[index], weight[index], self.recipe.epsilon).backward()
            entropy += bernoulli_entropy(logits.detach(), eligible).sum()
        self._step()
        return entropy.item() / max(1, len(telling))

    def _calibrate_speeds(self) -> None:
        """Measure how many passes each shift of the logits takes, without chance, and set the shifts of the speeds."""
        if self.network.speed_shifts is None:
            return
        recorder = RecordingScheduler(self.network, self.recipe.config, "likely")
        problems = self._problems(self.recipe.prompts * self.recipe.group)
        episodes = [Episode(task, problem, speed, recorder, length) for task, problem, speed, length in problems]

        def passes() -> Tensor:
            own = self._roll_out(episodes).passes.float().mean()
            return self._accelerator.reduce(own, reduction="mean")  # each process has its own problems

        calibrate(self.network.speed_shifts, passes)

    # --- both

    def _step(self) -> None:
        """Average the gradients of all processes, clip them, and move."""
        for parameter in self.network.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad = self._accelerator.reduce(parameter.grad, reduction="mean")
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.batch)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _problems(self, count: int) -> list[tuple[Task, Any, float, int]]:
        """(task, problem, wanted speed, block length) of all tasks in turn."""
        seed = self._seed()
        rng = torch.Generator().manual_seed(seed)
        speeds = (SLOWEST + (1 - SLOWEST) * torch.rand(count, generator=rng)).tolist()
        tasks = [find_task(name) for name in self.recipe.tasks]
        each = {task.name: islice(task.problems(seed, "train"), count) for task in tasks}
        chosen = [tasks[(i + self.batch) % len(tasks)] for i in range(count)]
        which = torch.randint(len(self.recipe.block_length), (count,), generator=rng).tolist()
        lengths = [self.recipe.block_length[i] for i in which]
        return [
            (task, next(each[task.name]), speed, task.max_tokens if length == "full" else length)
            for task, speed, length in zip(chosen, speeds, lengths, strict=True)
        ]

    def _seed(self) -> int:
        """The seed of this batch and process."""
        processes = self._accelerator.num_processes
        return (self.recipe.seed * 1_000_003 + self.batch) * processes + self._accelerator.process_index

    def _roll_out(self, episodes: list[Episode]) -> Rollouts:
        return roll_out(self._engine, episodes, self._seed() * len(episodes))

    def _watch(self, advantage: Tensor) -> None:
        """Raise CannotLearnError if for PATIENCE batches all rollouts of each group had the same reward."""
        signal = self._accelerator.reduce(advantage.abs().max(), reduction="sum")
        self._idle = 0 if signal > NO_SIGNAL else self._idle + 1
        if self._idle >= PATIENCE:
            raise CannotLearnError(
                f"in {PATIENCE} batches all rollouts of each group had the same reward, so there is nothing to learn; "
                "raise --alpha or --group, or choose a task that the model solves sometimes"
            )


def _figures(correct: Tensor, passes: Tensor) -> dict[str, float]:
    """What is logged of some rollouts."""
    return {"accuracy": correct.float().mean().item(), "passes": passes.float().mean().item()}
