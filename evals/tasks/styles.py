"""The styles that a worked solution is drawn in: which steps share a line, and which are restated in words first.

How often that happens is itself drawn for every problem. The length of an answer can therefore not be known from the
prompt, and a solution that merges its steps is shorter and harder: what lies between two steps is never written.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

MERGE = (0.1, 0.35, 0.7)  # probability that a step joins the line before it
RESTATE = (0.0, 0.5, 1.0)  # probability that a line is preceded by its steps in words

Step = TypeVar("Step")


@dataclass(frozen=True)
class Style:
    merge: float
    restate: float


def draw_style(rng: random.Random) -> Style:
    return Style(rng.choice(MERGE), rng.choice(RESTATE))


def lines_of(rng: random.Random, steps: Sequence[Step], style: Style, longest: int) -> list[tuple[list[Step], bool]]:
    """The steps in order, line by line, at most `longest` to a line; and whether the line restates them."""
    lines: list[list[Step]] = []
    for step in steps:
        if lines and len(lines[-1]) < longest and rng.random() < style.merge:
            lines[-1].append(step)
        else:
            lines.append([step])
    return [(line, rng.random() < style.restate) for line in lines]
