"""Schedulers that no package should ship, to see the engine keep its promises. `registered` makes them known."""

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
import torch

from unmask.schedulers import Decision, Needs, State, View, option, registry, top_n


@dataclass(frozen=True)
class NoOptions:
    pass


class Greedy:
    """Claims everything: prompt, padding, settled blocks, as far as its columns reach."""

    Options = NoOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision(torch.ones_like(view.mask))


class Again:
    """Claims, beside one new token, everything that is revealed already."""

    Options = NoOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision(view.most_confident() | ~view.mask)


class Idle:
    """Never reveals anything."""

    Options = NoOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        return Decision(torch.zeros_like(view.mask))


class FlipFlop:
    """Reveals one token and takes back all the others, for ever."""

    Options = NoOptions
    needs = Needs(remask=True)

    def decide(self, view: View, state: State) -> Decision:
        return Decision(view.most_confident(), remask=~view.mask)


class Undeclared(FlipFlop):
    """Takes tokens back without having said so."""

    needs = Needs()


class SecondThoughts:
    """Remasks, at the second step of a block, what it revealed at the first; then reveals all."""

    Options = NoOptions
    needs = Needs(remask=True)

    def decide(self, view: View, state: State) -> Decision:
        second = (view.block_step == 1)[:, None]
        first = (view.block_step == 0)[:, None]
        leftmost = top_n(-view.positions.float(), view.eligible, torch.full_like(view.step, 2))
        return Decision(leftmost & (first | second) | view.eligible & ~first & ~second, remask=~view.mask & second)


@dataclass(frozen=True)
class CountingOptions:
    label: str = option("a", "splits the rows into groups")
    every: int = option(2, "reveal one more token at every so many-th step", minimum=1)


class Counting:
    """Keeps per-row and per-column state: how many steps it has seen, and for how many each column was masked.

    It compares by value and has no hash, which is nobody's business but its own.
    """

    Options = CountingOptions
    needs = Needs()

    def __init__(self, label: str):
        self.label = label

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counting) and self.label == other.label

    def decide(self, view: View, state: State) -> Decision:
        seen = state.get("seen", torch.zeros_like(view.step)) + 1
        waited = state.get("waited", torch.zeros_like(view.positions)) * (view.block_step > 0)[:, None] + view.mask
        n = 1 + seen // view.options["every"]
        score = waited.float() * 100 + view.positions % 7
        return Decision(top_n(score, view.eligible, n), state={"seen": seen, "waited": waited})


@dataclass(frozen=True)
class FloorOptions:
    floor: float | None = option(None, "least confidence of what is revealed; null reveals nothing")
    most: int | None = option(None, "most tokens a step; null sets no bound", minimum=0)


class Floor:
    """Compares with an option that may be null, and never asks whether it is."""

    Options = FloorOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        above = view.eligible & (view.confidence > view.option("floor"))
        return Decision(above & top_n(view.confidence, above, view.options["most"] % view.length))


class Overwriting:
    """Reveals one token a pass and writes over everything: prompt, pinned tokens, settled blocks, what it remasks."""

    Options = NoOptions
    needs = Needs(remask=True, write=True, finish=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        everything = torch.ones_like(view.mask)
        third = (view.positions + view.step[:, None]) % 3 == 0
        reveal = top_n(view.confidence, view.eligible, torch.full_like(view.step, 2))
        return Decision(reveal, remask=~view.mask & third, write=everything, finish=view.step % 2 == 0)


class Stealthy(Overwriting):
    """Writes over tokens, takes them back and keeps blocks open without having said so."""

    needs = Needs(window="block")


class Clinging:
    """Reveals a block at once and never lets go of it."""

    Options = NoOptions
    needs = Needs(finish=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        return Decision(view.eligible, finish=torch.zeros_like(view.step, dtype=torch.bool))


class Choosy:
    """Wants tokens that nobody offers, and now and then the second best."""

    Options = NoOptions
    needs = Needs(top_k=2, choice=True)

    def decide(self, view: View, state: State) -> Decision:
        reveal = top_n(view.confidence, view.eligible, torch.full_like(view.step, 2))
        return Decision(reveal, choice=view.positions * 1_000_003 % 7 - 2)


ROGUES: dict[str, type[Any]] = {
    "greedy": Greedy,
    "again": Again,
    "idle": Idle,
    "flip-flop": FlipFlop,
    "undeclared": Undeclared,
}
ROGUES |= {"overwriting": Overwriting, "stealthy": Stealthy, "clinging": Clinging, "choosy": Choosy}
ROGUES |= {"second-thoughts": SecondThoughts, "counting": Counting, "floor": Floor}


@contextmanager
def registered() -> Iterator[None]:
    """Make the rogues known beside the installed schedulers, through entry points like theirs."""
    extra = [EntryPoint(name, f"tests.rogues:{kind.__name__}", registry.GROUP) for name, kind in ROGUES.items()]

    def entry_points(**chosen: Any) -> EntryPoints:
        return EntryPoints([*importlib.metadata.entry_points(group=registry.GROUP), *extra]).select(**chosen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", entry_points)
        forget_instances()
        yield
    forget_instances()


def forget_instances() -> None:
    """Let every scheduler be found and made anew."""
    for found in (registry.installed_names, registry.scheduler_class, registry.make_scheduler, registry.read_needs):
        found.cache_clear()
