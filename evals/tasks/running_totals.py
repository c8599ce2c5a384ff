"""Running totals: long word problems whose solutions differ in length alone, and in how much they do at once.

    Tom has 5 apples. Tom finds 7 more. Tom loses 3. Tom doubles the apples. How many apples does Tom have?

    so we have
    5 + 7 = 12
    so we have
    12 - 3 * 2 = 18
    #### 18

A solution has one step a line, two, or all of them, and some are the answer alone. Before each of its lines stands the
same phrase, or nothing. The prompt tells neither. Lines of a solution are equally long: its first line tells where all
others are. What several steps of one line come to is worked out without being written, so a shorter solution is harder.

Half of the solutions have one step a line, and who writes from left to right writes one of them. They have four
lengths, one for each phrase. Who settles the end first finds, token by token, that a slightly shorter answer is likely
enough, and ends with one of the shortest.
"""

import random
from collections.abc import Callable

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.long_word_problems import LongWordProblem, Story, bullets, draw_story, story, terse

STEPS = (5, 8)
LARGEST_TOTAL = 30
# How many steps share a line, and how often; 0 is all.
AT_ONCE = (1, 2, 0)
AT_ONCE_WEIGHTS = (10, 7, 3)
BARE = 0.05  # share of the solutions that are the answer alone
PHRASES = ("", "now\n", "so we have\n", "after this step there are\n")

TEMPLATES: tuple[Callable[[Story], str], ...] = (story, bullets, terse)


def draw(rng: random.Random, template: int) -> LongWordProblem:
    told, total = draw_story(rng, STEPS, LARGEST_TOTAL)
    return LongWordProblem(TEMPLATES[template](told), solution(rng, told, total), total)


def solution(rng: random.Random, told: Story, answer: int) -> str:
    """A right solution of one of its lengths."""
    (at_once,) = rng.choices(AT_ONCE, AT_ONCE_WEIGHTS)
    phrase, bare = rng.choice(PHRASES), rng.random() < BARE
    total, text = told.start, ""
    for first in range(0, 0 if bare else len(told.changes), at_once or len(told.changes)):
        line = str(total)
        for change in told.changes[first : first + (at_once or len(told.changes))]:
            line += f" {change.symbol} {change.operand}"
            total = change.apply(total)
        text += f"{phrase}{line} = {total}\n"
    return f"{text}#### {answer}"


TASK = templated(
    "running-totals", "long word problems whose solutions have many lengths", 128, draw, templates=len(TEMPLATES)
)
