"""The recipe of a policy: the settings that decide its weights."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from unmask.errors import UserError
from unmask.evals.tasks import EMBEDDED, find_task
from unmask.policies.network import PolicyShape
from unmask.policies.settings import TrainPolicySettings
from unmask.policies.store import PolicyConfig
from unmask.settings import BlockLength

TOKEN_HEADS = 4  # of a policy that reads tokens; the paper's has 2
WARM_RATE = 1e-3  # highest learning rate of a warm start


class CannotLearnError(UserError):
    """The settings give the policy nothing to learn from; the message says what to change."""


@dataclass(frozen=True)
class PolicyRecipe:
    """Everything that decides the weights. Except for `tasks`, the fields are those of `TrainPolicySettings`, which has
    their meanings and defaults."""

    model: str
    tasks: tuple[str, ...]
    batches: int
    block_length: tuple[BlockLength, ...]
    observation: Literal["generation", "block"]
    mode: Literal["bernoulli", "dpls"]
    reward: Literal["multiplicative", "additive"]
    alpha: float
    any_speed: bool
    group: int
    prompts: int
    updates: int
    epsilon: float
    learning_rate: float
    warmup: int
    steering: bool
    remask: bool
    write: bool
    tokens: int
    sees: tuple[Literal["positions", "stops", "hidden"], ...]
    top_k: int
    verification: int
    imitation: int
    start: float
    initial: str
    teacher: tuple[str, ...]
    teacher_block: int
    confidence: Literal["probability", "log-odds"]
    seed: int

    @staticmethod
    def of(settings: TrainPolicySettings) -> "PolicyRecipe":
        """The recipe of a command's settings. Raises TaskError if there is no such task."""
        names = [field.name for field in fields(PolicyRecipe) if field.name != "tasks"]
        tasks = tuple(find_task(name).name for name in settings.task or EMBEDDED)
        return PolicyRecipe(tasks=tasks, **{name: getattr(settings, name) for name in names})

    def check(self) -> None:
        """Raise CannotLearnError for settings that exclude each other."""
        if self.group < 2:
            raise CannotLearnError(f"a group of {self.group} has nothing to be compared with; use --group 2 or more")
        if self.verification and not self.tokens:
            raise CannotLearnError(
                f"a verification of {self.verification} batches is for policies that read tokens; add --tokens"
            )
        if self.remask and self.write:
            raise CannotLearnError("a token is taken back or written over, not both; leave out --remask or --write")
        if (self.remask or self.write) and self.mode == "dpls":
            raise CannotLearnError("dpls revises no tokens; use --mode bernoulli with --remask and --write")

    @property
    def config(self) -> PolicyConfig:
        return PolicyConfig(
            observation=self.observation,
            block_length=self.block_length,
            heads=self.heads,
            confidence=self.confidence,
            speed=self.any_speed,
            write=self.write,
        )

    @property
    def heads(self) -> int:
        return TOKEN_HEADS if self.tokens else PolicyShape.heads

    def shape(self, width: int) -> PolicyShape:
        """For a model whose hidden states have this width."""
        return PolicyShape(
            heads=self.heads,
            top_k=self.top_k,
            speed=self.any_speed,
            remask=self.remask or self.write,
            vocabulary=self.tokens,
            positions="positions" in self.sees,
            stops="stops" in self.sees,
            hidden=width if "hidden" in self.sees else 0,
        )

    @property
    def warm(self) -> int:
        """Batches of the whole warm start."""
        return self.verification + self.imitation

    def rate(self, batch: int) -> float:
        """Learning rate: linear warm-up, then a cosine to zero; once for the warm start and once for the rest."""
        highest, batch, batches = (
            (WARM_RATE, batch, self.warm)
            if batch < self.warm
            else (self.learning_rate, batch - self.warm, self.batches)
        )
        cosine = (1 + math.cos(math.pi * batch / batches)) / 2
        return highest * min(1.0, (batch + 1) / self.warmup) * cosine
