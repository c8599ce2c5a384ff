"""What a task is: problems with a prompt, a worked solution, and a grader that is also the reward."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

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


@runtime_checkable
class Styled(Protocol):
    """What a problem may be, too: one whose right answers come in styles that a report tells apart."""

    def style(self, completion: str) -> str:
        """The style of a completion, right or wrong, in one word."""
        ...


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


class Draw(Protocol):
    def __call__(self, rng: random.Random, /) -> Problem: ...


@dataclass(frozen=True)
class DrawnTask:
    """A stream of problems that never ends: `draw` makes one from a random generator.

    templates  the same for each wording of the prompt alone; empty where there is only one
    """

    name: str
    description: str
    max_tokens: int
    draw: Draw
    templates: tuple[Draw, ...] = ()

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

    def of_template(self, number: str) -> "DrawnTask":
        """The problems of one wording, counted from 1. Raises TaskError if there is no such."""
        choices = [str(i) for i in range(1, len(self.templates) + 1)]
        if not choices:
            raise TaskError(f"task {self.name} has one template only; leave out template={number}")
        if number not in choices:
            raise TaskError(f"task {self.name} has no template {number!r}; the templates are: {', '.join(choices)}")
        name = f"{self.name}:template={number}"
        return replace(self, name=name, draw=self.templates[int(number) - 1], templates=())


class DrawTemplate(Protocol):
    def __call__(self, rng: random.Random, /, template: int) -> Problem: ...


def templated(name: str, description: str, max_tokens: int, draw: DrawTemplate, templates: int) -> DrawnTask:
    """A task that words its prompts in several ways, each as often: `draw` is given the number of one, from 0."""
    draws = tuple(partial(draw, template=template) for template in range(templates))
    return DrawnTask(name, description, max_tokens, partial(_draw_any, draws), draws)


def _draw_any(draws: tuple[Draw, ...], rng: random.Random, /) -> Problem:
    return rng.choice(draws)(rng)


def split_of(prompt: str) -> Split:
    return "held-out" if zlib.crc32(prompt.encode()) % HELD_OUT_SHARE == 0 else "train"
