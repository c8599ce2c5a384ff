"""Running totals: word problems of five to eight numbered steps, solved as traces.

    Tom has 5 apples. 1. Tom finds 7 more. 2. Tom loses 3. 3. Tom doubles the apples. How many apples does Tom have?

    now in step 1: 12
    now in step 2: 9
    now in step 3: 18
    #### 18

Sums can be worked out without their parts, so a network learns to do without the lines: here a bare answer is not much
harder.
"""

import random
from collections.abc import Callable, Sequence

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.long_word_problems import Story, draw_story
from unmask.evals.tasks.traces import STEPS, Trace, draw_solution

LARGEST_TOTAL = 30


def _numbered(events: Sequence[str], form: str = "{}. {}") -> list[str]:
    """The events with their numbers, from 1."""
    return [form.format(number, event) for number, event in enumerate(events, 1)]


def _story(story: Story) -> str:
    events = " ".join(_numbered([f"{story.name} {change.event}." for change in story.changes]))
    return f"{story.name} has {story.start} {story.item}. {events} How many {story.item} does {story.name} have?"


def _bullets(story: Story) -> str:
    events = "\n".join(_numbered([f"{story.name} {change.event}" for change in story.changes]))
    return f"{story.item} of {story.name}: {story.start} at first\n{events}\nHow many are there in the end?"


def _terse(story: Story) -> str:
    changes = _numbered([f"{change.symbol}{change.operand}" for change in story.changes], "{}: {}")
    return f"start {story.start}; {'; '.join(changes)}; total?"


TEMPLATES: tuple[Callable[[Story], str], ...] = (_story, _bullets, _terse)


def draw(rng: random.Random, template: int) -> Trace:
    told, total = draw_story(rng, STEPS, LARGEST_TOTAL)
    return Trace(TEMPLATES[template](told), solution(rng, told), str(total))


def solution(rng: random.Random, told: Story) -> str:
    """A right solution of one of its lengths."""
    totals = [told.start]
    for change in told.changes:
        totals.append(change.apply(totals[-1]))
    return draw_solution(rng, [str(total) for total in totals[1:]], str(totals[-1]))


TASK = templated("running-totals", "word problems of numbered steps, as traces", 128, draw, templates=len(TEMPLATES))
