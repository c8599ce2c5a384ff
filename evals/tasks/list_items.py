"""What the list tasks share: lists of small numbers or of short words, and how they are written."""

import random
import re
from collections.abc import Sequence

NUMBERS = tuple(str(number) for number in range(100))
WORDS = (
    *("ant", "bag", "bat", "bee", "box", "bus", "car", "cat", "cow", "cup", "dog", "ear", "egg", "fan", "fox", "gem"),
    *("hat", "hen", "ice", "jar", "key", "kit", "lamp", "leaf", "map", "net", "nut", "oak", "owl", "pan", "pen", "pig"),
    *("pie", "rat", "sea", "sun", "tea", "toy", "van", "zoo"),
)

_LIST = re.compile(r"\[([^\[\]]*)\]")


def draw_items(rng: random.Random, count: int) -> list[str]:
    """Different items of one kind: each list holds numbers alone or words alone."""
    return rng.sample(rng.choice((NUMBERS, WORDS)), count)


def new_item(rng: random.Random, items: Sequence[str]) -> str:
    """An item of the list's kind that the list does not hold."""
    pool = NUMBERS if items[0].isdigit() else WORDS
    while True:
        item = rng.choice(pool)
        if item not in items:
            return item


def in_order(items: Sequence[str]) -> list[str]:
    """Numbers by size, words by the alphabet."""
    return sorted(items, key=lambda item: (int(item), "") if item.isdigit() else (0, item))


def written(items: Sequence[str]) -> str:
    return f"[{', '.join(items)}]"


def read_list(text: str) -> list[str] | None:
    """The items of a text that is a list and nothing else; None for any other. White space around items is free."""
    found = _LIST.fullmatch(text.strip())
    return [item.strip() for item in found[1].split(",")] if found else None
