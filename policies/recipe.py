"""What decides a trained policy: the settings of a run."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from unmask.policies.network import PolicyShape
from unmask.policies.store import PolicyConfig

TOKEN_HEADS = 4  # of a policy that reads tokens; the paper's has 2
WARM_RATE = 1e-3  # highest learning rate of a warm start

Reward = Literal["multiplicative", "additive"]


@dataclass(frozen=True)
class PolicyRecipe:
    """What decides the weights. Lengths are in tokens, warm-ups in batches; the defaults are the paper's.

    alpha     what speed is worth in the reward
    any_speed train one policy for all speeds (`policies/speeds.py`), the wanted one being told, each with its own alpha
    group     rollouts of one problem that are compared with each other
    prompts   problems a batch and process
    updates   on each batch of rollouts
    steering  one more rollout in each group, by an expert
    remask    let it take back what it revealed
    initial   policy to go on from, a shipped one or a folder; by default none
    tokens    how many token ids the policy tells apart; 0, as in the paper, if it reads none
    verification  batches in which a policy that reads tokens first learns which of them go together
    imitation batches of supervised warm start after those
    teacher   schedulers whose choices teach in hindsight; by default it learns which proposals will prove right
    """

    model: str
    tasks: tuple[str, ...]
    batches: int
    block_length: tuple[int | Literal["full"], ...] = (32,)
    observation: Literal["generation", "block"] = "generation"
    mode: Literal["bernoulli", "dpls"] = "bernoulli"
    reward: Reward = "multiplicative"
    alpha: float = 1.0
    any_speed: bool = False
    group: int = 8
    prompts: int = 16
    updates: int = 2
    epsilon: float = 0.5
    learning_rate: float = 3e-5
    warmup: int = 50
    steering: bool = False
    remask: bool = False
    tokens: int = 0
    verification: int = 0
    imitation: int = 0
    start: float = -2.0
    initial: str = ""
    teacher: tuple[str, ...] = ()
    confidence: Literal["probability", "log-odds"] = "probability"
    seed: int = 0

    @property
    def config(self) -> PolicyConfig:
        return PolicyConfig(
            observation=self.observation,
            block_length=self.block_length,
            heads=self.shape.heads,
            confidence=self.confidence,
            speed=self.any_speed,
        )

    @property
    def shape(self) -> PolicyShape:
        paper = PolicyShape(speed=self.any_speed, remask=self.remask)
        return replace(paper, heads=TOKEN_HEADS, vocabulary=self.tokens) if self.tokens else paper

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
