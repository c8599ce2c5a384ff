"""Policy training, in the order of the paper (arXiv 2512.09106, section 4): roll out, reward, compare, update twice.

Before it, on request, a supervised warm start. The language model is frozen; only the policy learns.

Everything drawn depends on the seed, the batch and the process, so a run that was killed goes on as if it had not been.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from unmask.engine.engine import Engine
from unmask.errors import UserError
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
from unmask.policies.recipe import PolicyRecipe
from unmask.policies.rollout import Episode, RecordingScheduler, Rollouts, log_likelihood, roll_out
from unmask.policies.speeds import SHIFTS, SLOWEST, shifts_of_speeds
from unmask.policies.store import find_policy, load_policy, save_policy
from unmask.policies.warm_start import REPLACEMENTS, SHOWN, TEACHERS, followed, replaced
from unmask.schedulers import parse_scheduler_text

STATE_FILE, LOG_FILE = "training.pt", "train.jsonl"
CHUNK = 512  # steps that go through the network at once
NO_SIGNAL = 1e-6  # advantages below are rounding
PATIENCE = 20  # batches in a row without signal
EXPERT, EXPERT_BLOCK = "threshold:threshold=0.9", 32  # the paper's: Fast-dLLM, block 32 whatever the policy's
BETAS, WEIGHT_DECAY, GRADIENT_NORM = (0.9, 0.99), 0.1, 0.2
ALPHAS = (0.1, 30.0)  # what speed is worth to an any-speed policy at speed 0 and at speed 1, geometric in between


class CannotLearnError(UserError):
    """The settings give the policy nothing to learn from; the message says what to change."""


class PolicyTrainer:
    """The state of one run: network, optimizer, batch. It goes on from the state saved in `out`, if there is one."""

    def __init__(self, recipe: PolicyRecipe, model: Model, out: Path, rows: int = 64):
        if recipe.group < 2:
            raise CannotLearnError(f"a group of {recipe.group} has nothing to be compared with; use --group 2 or more")
        if recipe.verification and not recipe.tokens:
            raise CannotLearnError(
                f"a verification of {recipe.verification} batches is for policies that read tokens; add --tokens"
            )
        if recipe.remask and recipe.mode == "dpls":
            raise CannotLearnError("dpls says nothing of what is taken back; use --mode bernoulli with --remask")
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.batch, self._idle = recipe, out, 0, 0
        self._accelerator = Accelerator(cpu=model.device.type == "cpu")
        self._engine = Engine(model, max_rows=rows, memory_fraction=0.01, static=False)
        self.network = PolicyNetwork(recipe.shape).to(model.device)
        self.network.start_at(recipe.start)
        if recipe.initial:
            self._go_on_from(recipe.initial)
        self._optimizer = torch.optim.AdamW(self.network.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY)
        if (out / STATE_FILE).exists():
            self._resume()
        if self.is_main:
            self._cut_log()

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
                self._tell_speeds_apart()
            figures = self._imitate() if self.batch < self.recipe.warm else self._reinforce()
            self.batch += 1
            if self.batch == self.total:
                self._tell_speeds_apart()
            figures |= {"batch": self.batch, "seconds": time.perf_counter() - started}
            if self.is_main:
                self._log(figures)
                if self.batch % save_every == 0 or self.batch == self.total:
                    self.save()
            on_batch(figures)

    def save(self) -> None:
        """Write the policy and what resuming needs. A kill leaves the old state or the new one, never half."""
        save_policy(self.out, self.network, self.recipe.config)
        state = {
            "recipe": asdict(self.recipe),
            "batch": self.batch,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self.out / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.out / STATE_FILE)

    def _resume(self) -> None:
        state = torch.load(self.out / STATE_FILE, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            changed = [name for name, value in asdict(self.recipe).items() if state["recipe"].get(name) != value]
            others = ", ".join(changed)
            raise CannotLearnError(
                f"{self.out} holds a run with another {others}; go on with the same settings or choose another --out"
            )
        self.batch = state["batch"]
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])

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

    def _cut_log(self) -> None:
        """Forget what was logged after the last saving."""
        log = self.out / LOG_FILE
        lines = log.read_text().splitlines() if log.exists() else []
        log.write_text("".join(line + "\n" for line in lines[: self.batch]))

    # --- supervised warm start

    def _imitate(self) -> dict[str, float]:
        """One batch of answers by teachers, of which the correct ones teach."""
        recipe = self.recipe
        names = recipe.teacher or TEACHERS
        teachers = [
            RecordingScheduler(self.network, recipe.config, "bernoulli", parse_scheduler_text(name)) for name in names
        ]
        episodes = [
            Episode(task, problem, speed, teachers[i % len(teachers)], block_length)
            for i, (task, problem, speed, block_length) in enumerate(self._problems(recipe.prompts * recipe.group))
        ]
        rollouts = self._roll_out(episodes)
        good = rollouts.correct[rollouts.trajectory].nonzero()[:, 0]
        verifies = self.batch < recipe.verification
        wanted = followed(rollouts) if recipe.teacher and not verifies else rollouts.right.float()
        rng = torch.Generator().manual_seed(self._seed())
        losses = []
        for _ in range(REPLACEMENTS if verifies else recipe.updates):
            shown = good[torch.randperm(len(good), generator=rng)[:SHOWN].to(good.device)] if verifies else good
            seen, label = rollouts.observation(shown), wanted[shown]
            if verifies:
                seen, label = replaced(seen, label, rng)
            loss = imitation_loss(seen.logits(self.network), seen.eligible, label)
            loss.backward()
            self._step()
            losses.append(loss.item())
        return {"imitation_loss": losses[0], **_figures(rollouts)}

    # --- reinforcement learning

    def _reinforce(self) -> dict[str, float]:
        """One batch of rollouts and the updates on it."""
        rollouts = self._roll_out(self._episodes())
        reward = self._reward(rollouts)
        advantage = advantages(reward, self.recipe.group + self.recipe.steering)
        self._watch(advantage)
        for _ in range(self.recipe.updates):
            entropy = self._update(rollouts, advantage)
        return {"reward": reward.mean().item(), "entropy": entropy, **_figures(rollouts)}

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
        """One optimizer step on all that has something to say. Returns the mean entropy of its choices, in nats."""
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

    def _tell_speeds_apart(self) -> None:
        """Measure how fast each shift of the logits is, without chance, and set those of the speeds by it."""
        shifts = self.network.speed_shifts
        if shifts is None:
            return
        recorder = RecordingScheduler(self.network, self.recipe.config, "likely")
        problems = self._problems(self.recipe.prompts * self.recipe.group)
        episodes = [
            Episode(task, problem, speed, recorder, block_length) for task, problem, speed, block_length in problems
        ]
        passes = []
        for shift in SHIFTS:
            shifts.fill_(shift)
            passes.append(self._roll_out(episodes).passes.float().mean())
        of_all = self._accelerator.reduce(torch.stack(passes), reduction="mean")  # each has played its own problems
        shifts.copy_(shifts_of_speeds(of_all.cpu()))

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
        """Problems of all tasks in turn, each with the speed that is wanted for it and the length of its blocks."""
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
        """Of this batch and process."""
        processes = self._accelerator.num_processes
        return (self.recipe.seed * 1_000_003 + self.batch) * processes + self._accelerator.process_index

    def _roll_out(self, episodes: list[Episode]) -> Rollouts:
        return roll_out(self._engine, episodes, self._seed() * len(episodes))

    def _watch(self, advantage: Tensor) -> None:
        """Raise CannotLearnError if batch after batch no rollout is better than the others of its group."""
        signal = self._accelerator.reduce(advantage.abs().max(), reduction="sum")
        self._idle = 0 if signal > NO_SIGNAL else self._idle + 1
        if self._idle >= PATIENCE:
            raise CannotLearnError(
                f"in {PATIENCE} batches all rollouts of each group were worth the same, so there is nothing to learn; "
                "raise --alpha or --group, or choose a task that the model solves sometimes"
            )

    def _log(self, figures: dict[str, float]) -> None:
        with (self.out / LOG_FILE).open("a") as file:
            file.write(json.dumps(figures) + "\n")


def _figures(rollouts: Rollouts) -> dict[str, float]:
    """What is logged of rollouts, those of experts included in a warm start only."""
    own = ~rollouts.expert if not rollouts.expert.all() else rollouts.expert
    logged = {"accuracy": rollouts.correct[own].float().mean(), "passes": rollouts.passes[own].float().mean()}
    return {name: value.item() for name, value in logged.items()}
