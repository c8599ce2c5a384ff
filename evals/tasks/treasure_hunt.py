"""Treasure hunts: a note in each place names the next place, and the solution is a trace of the way.

    hall says attic. attic says barn. ... Tom starts in the hall and follows 5 notes. Where does Tom end?

    now in step 1: attic
    now in step 2: barn
    ...
    #### well

In `coin-hunt` there are coins in each place, and the answer is how many there are on the way.

    hall says attic and has 3 coins. ... Tom starts in the hall, follows 5 notes and takes the coins of each place that
    the notes lead to. How many coins does Tom have?

    now in step 1: attic 4
    now in step 2: barn 6
    ...
    #### 19

To follow notes without writing the way down takes a network about as many layers as there are notes. So that going
back from the start is no short cut, the notes make a circle that is longer than the way.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.traces import STEPS, Trace, draw_solution
from unmask.evals.tasks.word_problems import NAMES

PLACES = (
    *("attic", "barn", "bridge", "cellar", "chapel", "garden", "hall", "kitchen"),
    *("library", "park", "school", "stable", "tower", "well"),
)
NOTES = 12
MOST_COINS = 5
FEW_STEPS = (1, 4)


@dataclass(frozen=True)
class Hunt:
    """way  the places from the first to the last; notes  (where it is, what it says), in any order; coins  by place"""

    name: str
    way: Sequence[str]
    notes: Sequence[tuple[str, str]]
    coins: dict[str, int]

    @property
    def steps(self) -> int:
        return len(self.way) - 1


@dataclass(frozen=True)
class Wording:
    """One way to ask.

    note     the words of a note, with {place}, {to} and {coins}
    between  what parts notes
    prompt   all of it, with {notes}, {name}, {start} and {steps}
    """

    note: str
    between: str
    prompt: str

    def ask(self, hunt: Hunt) -> str:
        notes = (self.note.format(place=place, to=to, coins=hunt.coins[place]) for place, to in hunt.notes)
        return self.prompt.format(notes=self.between.join(notes), name=hunt.name, start=hunt.way[0], steps=hunt.steps)


TEMPLATES = (
    Wording(
        "{place} says {to}.",
        " ",
        "{notes} {name} starts in the {start} and follows {steps} notes. Where is the end?",
    ),
    Wording("{place} to {to}", "\n", "Where is {name} after {steps} notes from the {start}?\n{notes}"),
    Wording("{place} > {to}", "; ", "{notes}; start {start}; {steps} notes; where?"),
)
COIN_TEMPLATES = (
    Wording(
        "{place} says {to} and has {coins}.",
        " ",
        "{notes} {name} starts in the {start} and follows {steps} notes. How many coins are there?",
    ),
    Wording(
        "{place} to {to} with {coins}",
        "\n",
        "How many coins has {name} after {steps} notes from the {start}?\n{notes}",
    ),
    Wording("{place} > {to} : {coins}", "; ", "{notes}; start {start}; {steps} notes; coins?"),
)


def draw_hunt(rng: random.Random, steps: tuple[int, int] = STEPS) -> Hunt:
    circle = rng.sample(PLACES, NOTES)
    notes = [(place, circle[(i + 1) % NOTES]) for i, place in enumerate(circle)]
    rng.shuffle(notes)
    coins = {place: rng.randint(1, MOST_COINS) for place in circle}
    return Hunt(rng.choice(NAMES), circle[: rng.randint(*steps) + 1], notes, coins)


def draw(rng: random.Random, template: int, steps: tuple[int, int] = STEPS) -> Trace:
    hunt = draw_hunt(rng, steps)
    return Trace(TEMPLATES[template].ask(hunt), solution(rng, hunt), hunt.way[-1])


def solution(rng: random.Random, hunt: Hunt) -> str:
    """A right solution of one of its lengths."""
    return draw_solution(rng, hunt.way[1:], hunt.way[-1])


def draw_coins(rng: random.Random, template: int) -> Trace:
    hunt = draw_hunt(rng)
    return Trace(COIN_TEMPLATES[template].ask(hunt), coin_solution(rng, hunt), str(_totals(hunt)[-1]))


def coin_solution(rng: random.Random, hunt: Hunt) -> str:
    """A right solution of one of its lengths."""
    totals = _totals(hunt)
    states = [f"{place} {total}" for place, total in zip(hunt.way[1:], totals, strict=True)]
    return draw_solution(rng, states, str(totals[-1]))


def _totals(hunt: Hunt) -> list[int]:
    return list(accumulate(hunt.coins[place] for place in hunt.way[1:]))


TASK = templated("treasure-hunt", "notes that lead from place to place, as traces", 128, draw, len(TEMPLATES))
SHORT_TASK = templated(
    "short-hunt", "the same with one to four notes", 128, partial(draw, steps=FEW_STEPS), len(TEMPLATES)
)
COIN_TASK = templated("coin-hunt", "the same with coins to be counted", 128, draw_coins, len(COIN_TEMPLATES))
