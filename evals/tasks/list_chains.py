"""List chains: a list changed in four to six steps; the solution writes the list after each.

    Start with [3, 17, 5]. Reverse. Remove 17. Append 4. Drop first. Give the list in the end.

    reverse:
    [5, 17, 3]
    remove 17, append 4:
    [5, 3, 4]
    drop first:
    [3, 4]
    #### [3, 4]

Steps may share a line, and then the lists between them are never written; lines may be introduced by their steps or
not. How often is drawn for every problem (`styles.py`). The marked list in the last line alone is graded.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.list_items import draw_items, in_order, new_item, read_list, written
from unmask.evals.tasks.styles import Intro, draw_style, lines_of

SIZE = (3, 4)
STEPS = (4, 6)
SHORTEST = 2  # list that a step may leave
LONGEST = 4
MARK = "####"


@dataclass(frozen=True)
class ListChain:
    """`steps` is how many there are, to tell styles apart."""

    prompt: str
    solution: str
    answer: tuple[str, ...]
    steps: int

    def grade(self, completion: str) -> bool:
        """Right when the list after the first mark, `#### [...]`, is the answer."""
        found = read_list(completion.partition(MARK)[2].partition("\n")[0])
        return found == list(self.answer)

    def style(self, completion: str) -> str:
        """`plain` when there are as many lists as steps before the mark, `merged` when fewer, `bare` without any."""
        lists = sum(line.startswith("[") for line in completion.partition(MARK)[0].split("\n"))
        return "bare" if not lists else "merged" if lists < self.steps else "plain"


@dataclass(frozen=True)
class Step:
    """What to do, and the list that it leaves."""

    text: str
    left: list[str]


def _story(start: str, steps: Sequence[str]) -> str:
    return f"Start with {start}. {' '.join(step.capitalize() + '.' for step in steps)} Give the list in the end."


def _numbered(start: str, steps: Sequence[str]) -> str:
    lines = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return f"List: {start}\n{lines}"


def _question_first(start: str, steps: Sequence[str]) -> str:
    return f"What does the list look like after these steps: {', '.join(steps)}? The list is {start}."


def _terse(start: str, steps: Sequence[str]) -> str:
    return " > ".join([start, *steps])


TEMPLATES: tuple[Callable[[str, Sequence[str]], str], ...] = (_story, _numbered, _question_first, _terse)


def draw(rng: random.Random, template: int) -> ListChain:
    count = rng.randint(*STEPS)
    items = start = draw_items(rng, rng.randint(*SIZE))
    steps: list[Step] = []
    for _ in range(count):
        steps.append(_step(rng, items))
        items = steps[-1].left
    prompt = TEMPLATES[template](written(start), [step.text for step in steps])
    return ListChain(prompt, _solution(rng, steps), tuple(items), count)


def _step(rng: random.Random, items: list[str]) -> Step:
    """One step of a kind that keeps the list's length within its bounds."""
    kinds = [_move, _replace]
    kinds += [_add] * (len(items) < LONGEST) + [_take] * (len(items) > SHORTEST)
    return rng.choice(kinds)(rng, items)


def _move(rng: random.Random, items: list[str]) -> Step:
    first, *middle, last = items
    return rng.choice(
        (
            Step("reverse", items[::-1]),
            Step("sort", in_order(items)),
            Step("swap first and last", [last, *middle, first]),
            Step("rotate left", [*items[1:], first]),
            Step("rotate right", [last, *items[:-1]]),
        )
    )


def _replace(rng: random.Random, items: list[str]) -> Step:
    old, new = rng.choice(items), new_item(rng, items)
    return Step(f"replace {old} by {new}", [new if item == old else item for item in items])


def _add(rng: random.Random, items: list[str]) -> Step:
    item, place = new_item(rng, items), rng.randint(2, len(items))
    return rng.choice(
        (
            Step(f"append {item}", [*items, item]),
            Step(f"insert {item} first", [item, *items]),
            Step(f"insert {item} at position {place}", [*items[: place - 1], item, *items[place - 1 :]]),
        )
    )


def _take(rng: random.Random, items: list[str]) -> Step:
    gone = rng.choice(items)
    return rng.choice(
        (
            Step(f"remove {gone}", [item for item in items if item != gone]),
            Step("drop first", items[1:]),
            Step("drop last", items[:-1]),
        )
    )


def _solution(rng: random.Random, steps: Sequence[Step]) -> str:
    lines, style = [], draw_style(rng)
    for number, line in enumerate(lines_of(rng, steps, style), 1):
        lines += _intro(number, ", ".join(step.text for step in line), style.intro)
        lines.append(written(line[-1].left))
    return "\n".join([*lines, f"{MARK} {written(steps[-1].left)}"])


def _intro(number: int, steps: str, intro: Intro) -> list[str]:
    """The line before a list, if there is one."""
    return {"none": [], "short": [f"{number}:"], "long": [f"{steps}:"], "longest": [f"{number}. {steps}:"]}[intro]


TASK = templated(
    "list-chains", "lists edited in several steps, worked step by step", 128, draw, templates=len(TEMPLATES)
)
