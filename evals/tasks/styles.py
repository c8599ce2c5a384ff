"""The styles that a worked solution is drawn in: which steps share a line, and which are restated in words first.

How often that happens is itself drawn for every problem. The length of an answer can therefore not be known from the
prompt, and a solution that merges its steps is shorter and harder: what lies between two steps is never written. The
shortest of all gives the answer alone. Most solutions merge nothing: who writes from left to right writes one of them.
Who settles the end first finds, step by step, that a slightly shorter answer is likely enough, and ends with one that
merges nearly everything.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

# Probability that a step joins the line before it, and how often it is drawn.
MERGE = (0.0, 0.3, 0.9)
MERGE_WEIGHTS = (12, 3, 5)
RESTATE = (0.0, 0.5, 1.0)  # probability that a line is preceded by its steps in words
BARE = 0.1  # share of the solutions that give the answer alone

Step = TypeVar("Step")


@dataclass(frozen=True)
class Style:
    merge: float
    restate: float
    bare: bool


def draw_style(rng: random.Random) -> Style:
    (merge,) = rng.choices(MERGE, MERGE_WEIGHTS)
    return Style(merge, rng.choice(RESTATE), rng.random() < BARE)


def lines_of(rng: random.Random, steps: Sequence[Step], style: Style) -> list[tuple[list[Step], bool]]:
    """The steps in order, line by line, and whether the line restates them; no line in a bare solution."""
    lines: list[list[Step]] = []
    for step in steps:
        if lines and rng.random() < style.merge:
            lines[-1].append(step)
        else:
            lines.append([step])
    return [] if style.bare else [(line, rng.random() < style.restate) for line in lines]
