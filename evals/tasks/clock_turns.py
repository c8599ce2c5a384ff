"""Clock turns: a clock is turned five to eight times, on or back, and the solution is a trace of what it shows.

    The clock shows 7. 1. Tom turns it 8 on. 2. Tom turns it 5 back. 3. Tom turns it 4 on. What does the clock show?

    now in step 1: 3
    now in step 2: 10
    now in step 3: 2
    #### 2

Twelve hours make a round. The changes can be summed up without the lines, but the sum goes round the clock several
times, so a bare answer is harder than one of running totals.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.traces import STEPS, Trace, draw_solution
from unmask.evals.tasks.word_problems import NAMES

HOURS = 12
LARGEST_TURN = 9


@dataclass(frozen=True)
class Turns:
    """shows  the hour, 1 to 12, at first and after each turn; turns  hours on, or back where negative"""

    name: str
    turns: Sequence[int]
    shows: Sequence[int]


def _story(told: Turns) -> str:
    events = " ".join(
        f"{number}. {told.name} turns it {abs(turn)} {'on' if turn > 0 else 'back'}."
        for number, turn in enumerate(told.turns, 1)
    )
    return f"The clock shows {told.shows[0]}. {events} What does the clock show?"


def _bullets(told: Turns) -> str:
    events = "\n".join(
        f"{number}. {told.name} goes {'on' if turn > 0 else 'back'} {abs(turn)}"
        for number, turn in enumerate(told.turns, 1)
    )
    return f"clock of {told.name}: {told.shows[0]} at first\n{events}\nWhat does it show in the end?"


def _terse(told: Turns) -> str:
    events = "; ".join(f"{number}: {turn:+}" for number, turn in enumerate(told.turns, 1))
    return f"start {told.shows[0]}; {events}; clock?"


TEMPLATES: tuple[Callable[[Turns], str], ...] = (_story, _bullets, _terse)


def draw_turns(rng: random.Random) -> Turns:
    shows = [rng.randint(1, HOURS)]
    turns = [rng.choice((-1, 1)) * rng.randint(1, LARGEST_TURN) for _ in range(rng.randint(*STEPS))]
    for turn in turns:
        shows.append((shows[-1] + turn - 1) % HOURS + 1)
    return Turns(rng.choice(NAMES), turns, shows)


def draw(rng: random.Random, template: int) -> Trace:
    told = draw_turns(rng)
    return Trace(TEMPLATES[template](told), solution(rng, told), str(told.shows[-1]))


def solution(rng: random.Random, told: Turns) -> str:
    """A right solution of one of its lengths."""
    shows = [str(hour) for hour in told.shows[1:]]
    return draw_solution(rng, shows, shows[-1])


TASK = templated("clock-turns", "a clock that is turned on and back, as traces", 128, draw, len(TEMPLATES))
