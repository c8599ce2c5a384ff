"""Traces: solutions that say where things stand after each step, or after some steps only.

    now in step 1: attic
    now in step 2: barn
    #### barn

A solution has one step a line, two, or all of them, and some are the answer alone. Before each of its lines stands the
same phrase. The prompt tells neither. What happens between two lines is worked out without being written, so a shorter
solution is harder. Every line has the number of its step, so who writes the next one need not count, and all lines of
a solution are equally long.

Most solutions have one step a line, and who writes from left to right writes one of them. They have four lengths, one
for each phrase. Who settles the end first finds, token by token, that a slightly shorter answer is likely enough, and
ends with the bare answer (`tests/test_traces.py` computes both).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

STEPS = (5, 8)
# How many steps share a line, and how often; 0 is all.
AT_ONCE = (1, 2, 0)
AT_ONCE_WEIGHTS = (12, 6, 2)
BARE = 0.04  # share of the solutions that are the answer alone
PHRASES = (
    "now in step ",
    "here we are in step ",
    "and this is where we come in step ",
    "we go on and this is what comes in step ",
)

_ANSWER = re.compile(r"####[ \t]*([^\n]*)")
_LABEL = re.compile(r"(\d+):")


@dataclass(frozen=True)
class Trace:
    """A problem whose solution is a trace. `answer` is what stands after `####`."""

    prompt: str
    solution: str
    answer: str

    def grade(self, completion: str) -> bool:
        """Right when the first marked answer, `#### ...`, is the answer. What stands before it is not graded."""
        found = _ANSWER.search(completion)
        return found is not None and found[1].strip() == self.answer

    def style(self, completion: str) -> str:
        """`plain` when each step has its line, `merged` when a line has several, `bare` without any line."""
        labels = [0, *map(int, _LABEL.findall(completion))]
        most = max((after - before for before, after in pairwise(labels)), default=0)
        return "bare" if len(labels) == 1 else "plain" if most <= 1 else "merged"


def draw_solution(rng: random.Random, states: Sequence[str], answer: str) -> str:
    """A right solution of one of its lengths. `states` are what is written of each step."""
    steps, phrase, bare = len(states), rng.choice(PHRASES), rng.random() < BARE
    (at_once,) = rng.choices(AT_ONCE, AT_ONCE_WEIGHTS)
    text = ""
    for first in range(0, 0 if bare else steps, at_once or steps):
        step = min(first + (at_once or steps), steps)
        text += f"{phrase}{step}: {states[step - 1]}\n"
    return f"{text}#### {answer}"
