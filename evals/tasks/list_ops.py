"""List operations: one operation on a list, answered with the list at once.

    Reverse this list: [3, 17, 5]

    [5, 17, 3]

The operations are those that ParallelBench (arXiv 2510.04767) uses as a stress test of parallel decoding, and `any`:
some items of the list, of which many choices are right. Problems and wording are our own. For `copy` the tokens of an
answer do not depend on each other; for `shuffle` and `any` they all do, and no order reveals them right in parallel.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unmask.evals.tasks.base import templated
from unmask.evals.tasks.list_items import draw_items, in_order, new_item, read_list, written

SIZE = (3, 12)

# Three wordings of each kind. {x} is an item of the list, {new} one that it does not hold.
TEMPLATES = {
    "copy": ("Copy this list: {list}", "{list}\nWrite it again.", "What does the list {list} look like?"),
    "reverse": ("Reverse this list: {list}", "{list}\nWrite it backwards.", "What is {list} in reverse order?"),
    "sort": ("Sort this list: {list}", "{list}\nPut it in order.", "What is {list} when sorted?"),
    "insert": (
        "Insert {new} at position {place} into this list: {list}",
        "{list}\nPut {new} at position {place}.",
        "What is {list} with {new} inserted at position {place}?",
    ),
    "remove": ("Remove {x} from this list: {list}", "{list}\nTake {x} out.", "What is {list} without {x}?"),
    "replace": (
        "Replace {x} by {new} in this list: {list}",
        "{list}\nPut {new} where {x} is.",
        "What is {list} with {new} instead of {x}?",
    ),
    "any": ("Pick any {n} of this list: {list}", "{list}\nChoose {n} of them.", "Which {n} of {list} do you take?"),
    "shuffle": ("Shuffle this list: {list}", "{list}\nPut it in another order.", "What is {list} when shuffled?"),
}
KINDS = tuple(kind for kind in TEMPLATES if kind != "shuffle")


@dataclass(frozen=True)
class ListOperation:
    """One operation, `kind` of TEMPLATES, on `items`; `count` is how many items the answer has."""

    kind: str
    prompt: str
    solution: str
    items: tuple[str, ...]
    count: int

    def grade(self, completion: str) -> bool:
        """Right when it is a list and nothing else: any so many items, any other order, or the one answer."""
        found = read_list(completion)
        if found is None:
            return False
        if self.kind == "any":
            return len(found) == len(set(found)) == self.count and set(found) <= set(self.items)
        if self.kind == "shuffle":
            return sorted(found) == sorted(self.items) and found != list(self.items)
        return found == read_list(self.solution)

    def style(self, completion: str) -> str:
        """The kind, which is the prompt's: a report tells kinds apart as it does styles."""
        return self.kind


def _draw(kinds: Sequence[str], rng: random.Random, template: int) -> ListOperation:
    kind = rng.choice(kinds)
    items = draw_items(rng, rng.randint(*SIZE))
    x, new, place = rng.choice(items), new_item(rng, items), rng.randint(1, len(items) + 1)
    n = rng.randint(2, len(items) - 1)
    answer = _answer(kind, rng, items, x, new, place, n)
    prompt = TEMPLATES[kind][template].format(list=written(items), x=x, new=new, place=place, n=n)
    return ListOperation(kind, prompt, written(answer), tuple(items), len(answer))


def _answer(kind: str, rng: random.Random, items: list[str], x: str, new: str, place: int, n: int) -> list[str]:
    answers: dict[str, Callable[[], list[str]]] = {
        "copy": lambda: items,
        "reverse": lambda: items[::-1],
        "sort": lambda: in_order(items),
        "insert": lambda: [*items[: place - 1], new, *items[place - 1 :]],
        "remove": lambda: [item for item in items if item != x],
        "replace": lambda: [new if item == x else item for item in items],
        "any": lambda: rng.sample(items, n),
        "shuffle": lambda: _other_order(rng, items),
    }
    return answers[kind]()


def _other_order(rng: random.Random, items: list[str]) -> list[str]:
    while True:
        other = rng.sample(items, len(items))
        if other != items:
            return other


def draw(rng: random.Random, template: int) -> ListOperation:
    return _draw(KINDS, rng, template)


def draw_shuffle(rng: random.Random, template: int) -> ListOperation:
    return _draw(("shuffle",), rng, template)


TASK = templated("list-ops", "one operation on a list, answered at once", 64, draw, templates=3)
SHUFFLE = templated("list-shuffle", "a list in any other order", 64, draw_shuffle, templates=3)
