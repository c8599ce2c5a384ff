"""What a task is: problems with a prompt, a worked solution, and a grader that is also the reward."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from unmask.errors import UserError

Split = Literal["train", "held-out"]
HELD_OUT_SHARE = 8  # one prompt in eight is held out


class TaskError(UserError, ValueError):
    """A task that cannot be had as asked for. The message is one sentence: what is wrong and what to do."""


class Problem(Protocol):
    """One question. `solution` is one right completion; `grade` accepts every right completion."""

    @property
    def prompt(self) -> str: ...

    @property
    def solution(self) -> str: ...

    def grade(self, completion: str) -> bool: ...


class Task(Protocol):
    """Problems of one kind; answers fit in `max_tokens` tokens."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def max_tokens(self) -> int: ...

    def problems(self, seed: int, split: Split) -> Iterator[Problem]:
        """Yield problems of one split: without end to train on, perhaps with an end to measure on.

        Equal seeds give equal problems in equal order, and no problem is in both splits.
        """
        ...


def take(task: Task, count: int, seed: int, split: Split = "held-out") -> list[Problem]:
    """The first `count` problems of a split. Raises TaskError when there are fewer."""
    problems = list(islice(task.problems(seed, split), count))
    if len(problems) < count:
        raise TaskError(f"task {task.name} has {len(problems)} {split} problems, not {count}; ask for as many or fewer")
    return problems


@dataclass(frozen=True)
class DrawnTask:
    """A stream of problems that never ends: `draw` makes one from a random generator."""

    name: str
    description: str
    max_tokens: int
    draw: "Draw"

    def problems(self, seed: int, split: Split) -> Iterator[Problem]:
        """Yield problems of one split without end; equal seeds give equal problems.

        A prompt belongs to exactly one split, whatever the seed: its CRC-32 decides. No seed can therefore
        draw, for evaluation, a prompt that training has seen.
        """
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            problem = self.draw(rng)
            if split_of(problem.prompt) == split:
                yield problem


class Draw(Protocol):
    def __call__(self, rng: random.Random, /) -> Problem: ...


def split_of(prompt: str) -> Split:
    return "held-out" if zlib.crc32(prompt.encode()) % HELD_OUT_SHARE == 0 else "train"
