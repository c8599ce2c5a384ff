"""Arguments to test drawn functions with, near the constants that they hold: where a wrong bound shows."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

PLAIN_NUMBERS = (*range(-10, 21), 0, 0, 0)
PLAIN_SIZES = tuple(range(1, 8))
LETTERS = "aeioulnrstxyz"
EMPTY_SHARE = 0.06  # of the lists and texts
EQUAL_SHARE = 0.2  # of the pairs of numbers


@dataclass(frozen=True)
class Pool:
    """What numbers, sizes of words and letters are drawn from: half of it near the constants, half any."""

    numbers: tuple[int, ...]
    sizes: tuple[int, ...]
    letters: str

    @staticmethod
    def near(constants: Iterable[Any]) -> "Pool":
        flat = [k for constant in constants for k in (constant if isinstance(constant, tuple) else (constant,))]
        counts = [k for k in flat if isinstance(k, int)]
        numbers = [k * factor + more for k in counts for factor in (1, 1, 2, -1) for more in (-1, 0, 1)]
        sizes = [max(1, min(10, k + more)) for k in counts for more in (-1, 0, 1)]
        letters = "".join(k for k in flat if isinstance(k, str) and k.isalpha())
        return Pool(
            PLAIN_NUMBERS + tuple(numbers) * (1 + len(PLAIN_NUMBERS) // max(1, len(numbers))),
            PLAIN_SIZES + tuple(sizes) * (1 + len(PLAIN_SIZES) // max(1, len(sizes))),
            LETTERS + letters * 4,
        )


def draw_arguments(rng: random.Random, kinds: Sequence[str], pool: Pool) -> tuple[Any, ...]:
    """One of each kind. Two numbers are equal now and then."""
    if set(kinds) == {"number"} and rng.random() < EQUAL_SHARE:
        return (rng.choice(pool.numbers),) * len(kinds)
    return tuple(draw_argument(rng, kind, pool) for kind in kinds)


def draw_argument(rng: random.Random, kind: str, pool: Pool) -> Any:
    """A value for an argument: `numbers`, `words` (none of them empty), `text`, `n` (0 or more), `low`, `number`."""
    if kind == "number":
        return rng.choice(pool.numbers)
    if kind == "n":
        return abs(rng.choice(pool.numbers))
    if kind == "low":
        return rng.randint(-4, 6)
    if kind == "numbers":
        return rng.choices(pool.numbers, k=_size(rng, 9))
    if kind == "words":
        return [_word(rng, pool) for _ in range(_size(rng, 7))]
    words = [_word(rng, pool) for _ in range(_size(rng, 4))]
    return " ".join(word if rng.random() < 0.7 else word.title() + str(rng.randint(0, 99)) for word in words)


def _size(rng: random.Random, most: int) -> int:
    return 0 if rng.random() < EMPTY_SHARE else rng.randint(1, most)


def _word(rng: random.Random, pool: Pool) -> str:
    """Letters; some words are in upper case, some read the same backwards."""
    size, shape = rng.choice(pool.sizes), rng.random()
    word = "".join(rng.choices(pool.letters, k=size))
    if shape < 0.1:
        return word.upper()
    return word[: -(-size // 2)] + word[: size // 2][::-1] if shape < 0.3 else word
