"""Swapped cups: a ball lies under one of four cups, and the solution is a trace of where it is after each swap.

    A ball is under the red cup. 1. Tom swaps red and blue. 2. Tom swaps green and white. 3. Tom swaps blue and green.
    Where is the ball?

    now in step 1: blue
    now in step 2: blue
    now in step 3: green
    #### green

Swaps do not commute, so what they do together is not to be had from each alone, as with sums: a bare answer is hard.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.traces import STEPS, Trace, draw_solution
from unmask.evals.tasks.word_problems import NAMES

CUPS = ("red", "blue", "green", "white")
MOVING = 0.7  # share of the swaps that move the ball


@dataclass(frozen=True)
class Game:
    """swaps  the two cups of each; under  where the ball is, at first and after each swap"""

    name: str
    swaps: Sequence[tuple[str, str]]
    under: Sequence[str]


def _story(game: Game) -> str:
    swaps = " ".join(f"{number}. {game.name} swaps {a} and {b}." for number, (a, b) in enumerate(game.swaps, 1))
    return f"A ball is under the {game.under[0]} cup. {swaps} Where is the ball?"


def _list(game: Game) -> str:
    swaps = "\n".join(f"{number}. {a} with {b}" for number, (a, b) in enumerate(game.swaps, 1))
    return f"{game.name} has a ball under the {game.under[0]} cup and swaps\n{swaps}\nWhere does it end?"


def _terse(game: Game) -> str:
    swaps = "; ".join(f"{number}: {a} {b}" for number, (a, b) in enumerate(game.swaps, 1))
    return f"start {game.under[0]}; {swaps}; where?"


TEMPLATES: tuple[Callable[[Game], str], ...] = (_story, _list, _terse)


def draw_game(rng: random.Random) -> Game:
    under, swaps = [rng.choice(CUPS)], []
    for _ in range(rng.randint(*STEPS)):
        ball = under[-1]
        others = rng.sample([cup for cup in CUPS if cup != ball], 2)
        pair = [ball, others[0]] if rng.random() < MOVING else others
        rng.shuffle(pair)
        swaps.append((pair[0], pair[1]))
        under.append(others[0] if ball in pair else ball)
    return Game(rng.choice(NAMES), swaps, under)


def draw(rng: random.Random, template: int) -> Trace:
    game = draw_game(rng)
    return Trace(TEMPLATES[template](game), solution(rng, game), game.under[-1])


def solution(rng: random.Random, game: Game) -> str:
    """A right solution of one of its lengths."""
    return draw_solution(rng, game.under[1:], game.under[-1])


TASK = templated("swapped-cups", "a ball under cups that are swapped, as traces", 128, draw, len(TEMPLATES))
