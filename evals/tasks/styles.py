"""The styles that a worked solution is drawn in: which steps share a line, and what a line says before it works.

A solution has one step a line, all its steps in one line, or joins them now and then; all its lines are introduced in
one form, or none is; and some solutions are the answer alone. The prompt does not tell which, so it does not tell the
length either. What lies between two steps of a line is never written, so a shorter solution is harder.

Half of the solutions have one step a line: who writes from left to right writes one of them. But they have four
lengths, one for each form. Who settles the end first finds, token by token, that a slightly shorter answer is likely
enough, and ends with one of the shortest.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

# Probability that a step joins the line before it, and how often it is drawn.
MERGE = (0.0, 0.5, 1.0)
MERGE_WEIGHTS = (10, 4, 6)
BARE = 0.1  # share of the solutions that give the answer alone

# What stands before each line, from nothing to a whole sentence; each task has its own words.
Intro = Literal["none", "short", "long", "longest"]

Step = TypeVar("Step")


@dataclass(frozen=True)
class Style:
    merge: float
    intro: Intro
    bare: bool


def draw_style(rng: random.Random) -> Style:
    (merge,) = rng.choices(MERGE, MERGE_WEIGHTS)
    return Style(merge, rng.choice(get_args(Intro)), rng.random() < BARE)


def lines_of(rng: random.Random, steps: Sequence[Step], style: Style) -> list[list[Step]]:
    """The steps in order, line by line; no line in a bare solution."""
    lines: list[list[Step]] = []
    for step in steps:
        if lines and rng.random() < style.merge:
            lines[-1].append(step)
        else:
            lines.append([step])
    return [] if style.bare else lines
