"""What a task is: problems with a prompt, a worked solution, and a grader that is also the reward."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "held-out"]
HELD_OUT_SHARE = 8  # one prompt in eight is held out


class Problem(Protocol):
    """One question. `solution` is one right completion; `grade` accepts every right completion."""

    @property
    def prompt(self) -> str: ...

    @property
    def solution(self) -> str: ...

    def grade(self, completion: str) -> bool: ...


@dataclass(frozen=True)
class Task:
    """A stream of problems: `draw` makes one from a random generator; answers fit in `max_tokens` tokens."""

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
