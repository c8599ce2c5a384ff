"""Long word problems: a running total changed in five to nine steps, in five wordings and many styles of solution.

    Tom has 5 apples. Tom finds 7 more. Tom loses 3. Tom doubles the apples. How many apples does Tom have?

    Tom finds 7 more:
    5 + 7 = 12
    Tom loses 3, doubles the apples:
    12 - 3 * 2 = 18
    #### 18

A line holds one operation or several, read from left to right, and may be introduced by its steps; how often is drawn
for every problem, and some solutions are the last line alone (`styles.py`). The last line holds the marked
answer, as in GSM8K (Cobbe et al., arXiv 2110.14168), and it alone is graded. Each line needs the line before it, so an
unmasking order that runs ahead of the arithmetic has to guess, and one that settles the end of the answer first has to
merge operations.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.styles import Intro, draw_style, lines_of
from unmask.evals.tasks.word_problems import GAINS, ITEMS, LOSSES, NAMES, TIMES, marked_answer

STEPS = (5, 9)
LARGEST_START = 20
LARGEST_OPERAND = 9
LARGEST_TOTAL = 50
WORDS = {"+": "add", "-": "take", "*": "times"}

_OPERATION = re.compile(r" [-+*] \d")


@dataclass(frozen=True)
class LongWordProblem:
    prompt: str
    solution: str
    answer: int

    def grade(self, completion: str) -> bool:
        """Right when the first marked answer, `#### n`, is the answer."""
        return marked_answer(completion) == self.answer

    def style(self, completion: str) -> str:
        """`merged` when a line holds more than one operation, `plain` when none does, `bare` without any operation."""
        most = max(len(_OPERATION.findall(line)) for line in completion.split("\n"))
        return ("bare", "plain", "merged")[min(most, 2)]


@dataclass(frozen=True)
class Change:
    """One step: an operation on the total, and the event in the words of a story."""

    symbol: str
    operand: int
    event: str

    def apply(self, total: int) -> int:
        if self.symbol == "*":
            return total * self.operand
        return total + self.operand if self.symbol == "+" else total - self.operand


@dataclass(frozen=True)
class Story:
    name: str
    item: str
    start: int
    changes: Sequence[Change]


def story(story: Story) -> str:
    events = " ".join(f"{story.name} {change.event}." for change in story.changes)
    return f"{story.name} has {story.start} {story.item}. {events} How many {story.item} does {story.name} have?"


def _question_first(story: Story) -> str:
    events = ", then ".join(change.event for change in story.changes)
    question = f"How many {story.item} does {story.name} have in the end?"
    return f"{question} {story.name} has {story.start} at first, then {events}."


def bullets(story: Story) -> str:
    events = "\n".join(f"- {story.name} {change.event}" for change in story.changes)
    return f"{story.item} of {story.name}:\n- {story.start} at first\n{events}\nHow many are there in the end?"


def _count(story: Story) -> str:
    *events, last = (change.event for change in story.changes)
    return (
        f"{story.name} starts with {story.start} {story.item}, {', '.join(events)} and {last}. Count the {story.item}."
    )


def terse(story: Story) -> str:
    changes = "; ".join(f"{change.symbol}{change.operand}" for change in story.changes)
    return f"start {story.start}; {changes}; total?"


TEMPLATES: tuple[Callable[[Story], str], ...] = (story, _question_first, bullets, _count, terse)


def draw(rng: random.Random, template: int) -> LongWordProblem:
    story, total = draw_story(rng, STEPS, LARGEST_TOTAL)
    write = TEMPLATES[template]
    return LongWordProblem(write(story), _solution(rng, story, total, in_signs=write is terse), total)


def draw_story(rng: random.Random, steps: tuple[int, int], largest: int) -> tuple[Story, int]:
    """A story of `steps`, from least to most, whose total never leaves 0 to `largest`; and where it ends."""
    start = total = rng.randint(1, LARGEST_START)
    item = rng.choice(ITEMS)
    changes = []
    for _ in range(rng.randint(*steps)):
        changes.append(_change(rng, total, item, largest))
        total = changes[-1].apply(total)
    return Story(rng.choice(NAMES), item, start, changes), total


def _change(rng: random.Random, total: int, item: str, largest: int) -> Change:
    """One change of the total that keeps it within 0 and `largest`."""
    kinds = ["+"] * 2 * (total < largest) + ["-"] * 2 * (total > 0)
    factors = [factor for factor in TIMES if 0 < total * factor <= largest]
    kind = rng.choice(kinds + ["*"] * bool(factors))
    if kind == "*":
        factor = rng.choice(factors)
        return Change(kind, factor, TIMES[factor].format(item))
    room = largest - total if kind == "+" else total
    operand = rng.randint(1, min(LARGEST_OPERAND, room))
    return Change(kind, operand, rng.choice(GAINS if kind == "+" else LOSSES).format(operand))


def _solution(rng: random.Random, story: Story, answer: int, in_signs: bool) -> str:
    """A right solution in a style of its own."""
    total, lines, style = story.start, [], draw_style(rng)
    for changes in lines_of(rng, story.changes, style):
        lines += _intro(story, changes, style.intro, in_signs)
        line = str(total)
        for change in changes:
            line += f" {change.symbol} {change.operand}"
            total = change.apply(total)
        lines.append(f"{line} = {total}")
    return "\n".join([*lines, f"#### {answer}"])


def _intro(story: Story, changes: Sequence[Change], intro: Intro, in_signs: bool) -> list[str]:
    """The line before a line, if there is one. A terse prompt has no events, so plain words stand for them."""
    signs = ", ".join(f"{change.symbol}{change.operand}" for change in changes)
    events = ", ".join(f"{WORDS[change.symbol]} {change.operand}" if in_signs else change.event for change in changes)
    who = "then" if in_signs else story.name
    return {"none": [], "short": [f"{signs}:"], "long": [f"{events}:"], "longest": [f"{who} {events}:"]}[intro]


TASK = templated(
    "long-word-problems", "longer word problems, solved in many styles", 128, draw, templates=len(TEMPLATES)
)
