"""What drawn Python functions are made of: predicates and maps of one element, in words, as source and as a function.

A piece computes by a function of its own, not by running its source, so that the two check each other.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Piece:
    """A predicate or map of an element. In words and sources, {x} stands for the element and {k} for the constant.

    words      of a predicate a verb in the plural ("are even"), of a map a participle ("squared")
    source     an expression
    compute    of element and constant
    constants  one of them is drawn; a piece without constants has one that it ignores
    opposite   of a predicate: the source of its contrary
    """

    words: str
    source: str
    compute: Callable[[Any, Any], Any]
    constants: Sequence[Any] = (None,)
    opposite: str = ""


@dataclass(frozen=True)
class Term:
    """A piece with its constant."""

    piece: Piece
    constant: Any

    @property
    def words(self) -> str:
        return self.piece.words.format(k=self.constant)

    def source(self, x: str) -> str:
        return self.piece.source.format(x=x, k=self.constant)

    def opposite(self, x: str) -> str:
        return self.piece.opposite.format(x=x, k=self.constant)

    def off_by_one(self) -> Iterator["Term"]:
        """With a whole constant one less and one more."""
        if isinstance(self.constant, int):
            yield replace(self, constant=self.constant - 1)
            yield replace(self, constant=self.constant + 1)

    def compute(self, element: Any) -> Any:
        return self.piece.compute(element, self.constant)


def draw_term(rng: random.Random, pieces: Sequence[Piece]) -> Term:
    piece = rng.choice(pieces)
    return Term(piece, rng.choice(piece.constants))


SMALL = tuple(range(2, 10))
BOUNDS = tuple(range(-5, 21))
SPANS = tuple((low, low + width) for low in range(-5, 11) for width in range(3, 12))
PAIRS = tuple((a, b) for a in range(2, 8) for b in range(1, 10))
LETTERS = tuple("aeioulnrst")
SWAPS = tuple((a, b) for a in LETTERS for b in (*LETTERS, "-", "_") if a != b)
SUFFIXES = ("s", "ed", "er", "ing", "!", "?", "_", "-")

NUMBER_TESTS = (
    Piece("are even", "{x} % 2 == 0", lambda x, k: x % 2 == 0, opposite="{x} % 2 != 0"),
    Piece("are odd", "{x} % 2 == 1", lambda x, k: x % 2 == 1, opposite="{x} % 2 == 0"),
    Piece("are positive", "{x} > 0", lambda x, k: x > 0, opposite="{x} <= 0"),
    Piece("are negative", "{x} < 0", lambda x, k: x < 0, opposite="{x} >= 0"),
    Piece("are greater than {k}", "{x} > {k}", lambda x, k: x > k, BOUNDS, "{x} <= {k}"),
    Piece("are less than {k}", "{x} < {k}", lambda x, k: x < k, BOUNDS, "{x} >= {k}"),
    Piece("are at least {k}", "{x} >= {k}", lambda x, k: x >= k, BOUNDS, "{x} < {k}"),
    Piece("are at most {k}", "{x} <= {k}", lambda x, k: x <= k, BOUNDS, "{x} > {k}"),
    Piece("are not equal to {k}", "{x} != {k}", lambda x, k: x != k, BOUNDS, "{x} == {k}"),
    Piece("are divisible by {k}", "{x} % {k} == 0", lambda x, k: x % k == 0, SMALL[1:], "{x} % {k} != 0"),
    Piece("are not divisible by {k}", "{x} % {k} != 0", lambda x, k: x % k != 0, SMALL[1:], "{x} % {k} == 0"),
    Piece(
        "end in the digit {k}",
        "abs({x}) % 10 == {k}",
        lambda x, k: str(x)[-1] == str(k),
        range(10),
        "abs({x}) % 10 != {k}",
    ),
    Piece(
        "are from {k[0]} to {k[1]}",
        "{k[0]} <= {x} <= {k[1]}",
        lambda x, k: x in range(k[0], k[1] + 1),
        SPANS,
        "not {k[0]} <= {x} <= {k[1]}",
    ),
    Piece(
        "leave remainder {k[1]} when divided by {k[0]}",
        "{x} % {k[0]} == {k[1]}",
        lambda x, k: (x - k[1]) % k[0] == 0,
        tuple((k, rest) for k in SMALL[1:] for rest in range(1, k)),
        "{x} % {k[0]} != {k[1]}",
    ),
)
NUMBER_MAPS = (
    Piece("squared", "{x} * {x}", lambda x, k: x**2),
    Piece("squared", "{x} ** 2", lambda x, k: x**2),
    Piece("cubed", "{x} ** 3", lambda x, k: x * x * x),
    Piece("negated", "-{x}", lambda x, k: 0 - x),
    Piece("doubled", "{x} * 2", lambda x, k: x + x),
    Piece("replaced by its absolute value", "abs({x})", lambda x, k: max(x, -x)),
    Piece("multiplied by {k}", "{x} * {k}", lambda x, k: x * k, SMALL),
    Piece("increased by {k}", "{x} + {k}", lambda x, k: x + k, range(1, 13)),
    Piece("decreased by {k}", "{x} - {k}", lambda x, k: x - k, range(1, 13)),
    Piece("subtracted from {k}", "{k} - {x}", lambda x, k: k - x, range(1, 21)),
    Piece("taken modulo {k}", "{x} % {k}", lambda x, k: x - x // k * k, SMALL),
    Piece("divided by {k} and rounded down", "{x} // {k}", lambda x, k: (x - x % k) // k, SMALL),
    Piece("raised to at least {k}", "max({x}, {k})", lambda x, k: k if x < k else x, range(-5, 10)),
    Piece("lowered to at most {k}", "min({x}, {k})", lambda x, k: k if x > k else x, range(16)),
    Piece("multiplied by {k[0]} and increased by {k[1]}", "{x} * {k[0]} + {k[1]}", lambda x, k: k[1] + x * k[0], PAIRS),
    Piece("multiplied by {k[0]} and decreased by {k[1]}", "{x} * {k[0]} - {k[1]}", lambda x, k: x * k[0] - k[1], PAIRS),
    Piece(
        "increased by {k[1]} and multiplied by {k[0]}", "({x} + {k[1]}) * {k[0]}", lambda x, k: (x + k[1]) * k[0], PAIRS
    ),
    Piece("decreased by {k[1]} and squared", "({x} - {k[1]}) ** 2", lambda x, k: (x - k[1]) ** 2, PAIRS),
    Piece("squared and decreased by {k}", "{x} * {x} - {k}", lambda x, k: x * x - k, SMALL),
    Piece("squared and taken modulo {k}", "{x} * {x} % {k}", lambda x, k: pow(x, 2, k), SMALL),
)

WORD_TESTS = (
    Piece("are longer than {k} letters", "len({x}) > {k}", lambda x, k: len(x) > k, range(2, 8), "len({x}) <= {k}"),
    Piece("are shorter than {k} letters", "len({x}) < {k}", lambda x, k: len(x) < k, range(3, 9), "len({x}) >= {k}"),
    Piece("have exactly {k} letters", "len({x}) == {k}", lambda x, k: len(x) == k, range(2, 8), "len({x}) != {k}"),
    Piece("have an even length", "len({x}) % 2 == 0", lambda x, k: len(x) % 2 == 0, opposite="len({x}) % 2 == 1"),
    Piece("have an odd length", "len({x}) % 2 == 1", lambda x, k: len(x) % 2 == 1, opposite="len({x}) % 2 == 0"),
    Piece("start with '{k}'", "{x}.startswith('{k}')", lambda x, k: x[:1] == k, LETTERS, "not {x}.startswith('{k}')"),
    Piece("end with '{k}'", "{x}.endswith('{k}')", lambda x, k: x[-1:] == k, LETTERS, "not {x}.endswith('{k}')"),
    Piece("start with '{k}'", "{x}[0] == '{k}'", lambda x, k: x[:1] == k, LETTERS, "{x}[0] != '{k}'"),
    Piece("end with '{k}'", "{x}[-1] == '{k}'", lambda x, k: x[-1:] == k, LETTERS, "{x}[-1] != '{k}'"),
    Piece("contain '{k}'", "'{k}' in {x}", lambda x, k: x.find(k) >= 0, LETTERS, "'{k}' not in {x}"),
    Piece("do not contain '{k}'", "'{k}' not in {x}", lambda x, k: x.find(k) < 0, LETTERS, "'{k}' in {x}"),
    Piece(
        "read the same backwards",
        "{x} == {x}[::-1]",
        lambda x, k: x == "".join(reversed(x)),
        opposite="{x} != {x}[::-1]",
    ),
    Piece("are in upper case", "{x}.isupper()", lambda x, k: x.upper() == x != x.lower(), opposite="not {x}.isupper()"),
    Piece(
        "start and end with the same letter",
        "{x}[0] == {x}[-1]",
        lambda x, k: x.endswith(x[0]),
        opposite="{x}[0] != {x}[-1]",
    ),
)
WORD_MAPS = (
    Piece("in upper case", "{x}.upper()", lambda x, k: x.upper()),
    Piece("in lower case", "{x}.lower()", lambda x, k: x.lower()),
    Piece("reversed", "{x}[::-1]", lambda x, k: "".join(reversed(x))),
    Piece("written twice", "{x} * 2", lambda x, k: x + x),
    Piece("cut to its first {k} letters", "{x}[:{k}]", lambda x, k: x[: min(k, len(x))], range(2, 6)),
    Piece("without its first {k} letters", "{x}[{k}:]", lambda x, k: x[k:], range(2, 5)),
    Piece("without its first letter", "{x}[1:]", lambda x, k: x[1:]),
    Piece("without its last letter", "{x}[:-1]", lambda x, k: x[: len(x) - 1]),
    Piece("replaced by its first letter", "{x}[0]", lambda x, k: x[:1]),
    Piece("replaced by its last letter", "{x}[-1]", lambda x, k: x[-1:]),
    Piece("followed by '{k}'", "{x} + '{k}'", lambda x, k: x + k, SUFFIXES),
    Piece("preceded by '{k}'", "'{k}' + {x}", lambda x, k: k + x, SUFFIXES),
    Piece(
        "with '{k[0]}' replaced by '{k[1]}'",
        "{x}.replace('{k[0]}', '{k[1]}')",
        lambda x, k: k[1].join(x.split(k[0])),
        SWAPS,
    ),
    Piece("without the letter '{k}'", "{x}.replace('{k}', '')", lambda x, k: "".join(x.split(k)), LETTERS),
)
WORD_NUMBERS = (
    Piece("replaced by its length", "len({x})", lambda x, k: len(x)),
    Piece("replaced by the number of its '{k}'", "{x}.count('{k}')", lambda x, k: sum(c == k for c in x), LETTERS),
    Piece("replaced by its length plus {k}", "len({x}) + {k}", lambda x, k: len(x) + k, range(1, 10)),
    Piece("replaced by {k} times its length", "len({x}) * {k}", lambda x, k: len(x) * k, SMALL),
    Piece("replaced by the square of its length", "len({x}) ** 2", lambda x, k: len(x) * len(x)),
    Piece("replaced by its number of distinct letters", "len(set({x}))", lambda x, k: len(dict.fromkeys(x))),
)

CHARACTER_TESTS = (
    Piece("are vowels", "{x} in 'aeiou'", lambda x, k: "aeiou".find(x) >= 0, opposite="{x} not in 'aeiou'"),
    Piece("are digits", "{x}.isdigit()", lambda x, k: "0" <= x <= "9", opposite="not {x}.isdigit()"),
    Piece("are letters", "{x}.isalpha()", lambda x, k: x.lower() != x.upper(), opposite="not {x}.isalpha()"),
    Piece("are in upper case", "{x}.isupper()", lambda x, k: x != x.lower(), opposite="not {x}.isupper()"),
    Piece("are in lower case", "{x}.islower()", lambda x, k: x != x.upper(), opposite="not {x}.islower()"),
    Piece("are not spaces", "{x} != ' '", lambda x, k: x != " ", opposite="{x} == ' '"),
    Piece("are equal to '{k}'", "{x} == '{k}'", lambda x, k: x == k, LETTERS, "{x} != '{k}'"),
    Piece("are not equal to '{k}'", "{x} != '{k}'", lambda x, k: x != k, LETTERS, "{x} == '{k}'"),
    Piece("come after '{k}'", "{x} > '{k}'", lambda x, k: ord(x) > ord(k), LETTERS, "{x} <= '{k}'"),
    Piece("come before '{k}'", "{x} < '{k}'", lambda x, k: ord(x) < ord(k), LETTERS, "{x} >= '{k}'"),
    Piece(
        "are among '{k}'",
        "{x} in '{k}'",
        lambda x, k: k.find(x) >= 0,
        tuple(a + b + c for a in LETTERS[:5] for b in LETTERS[5:] for c in "xyz"),
        "{x} not in '{k}'",
    ),
)
CHARACTER_MAPS = (
    Piece("in upper case", "{x}.upper()", lambda x, k: x.upper()),
    Piece("in lower case", "{x}.lower()", lambda x, k: x.lower()),
    Piece("with its case swapped", "{x}.swapcase()", lambda x, k: x.lower() if x.isupper() else x.upper()),
    Piece("written twice", "{x} * 2", lambda x, k: x + x),
    Piece("written {k} times", "{x} * {k}", lambda x, k: "".join([x] * k), range(3, 6)),
    Piece("followed by '{k}'", "{x} + '{k}'", lambda x, k: x + k, ("-", "_", ".", "!")),
    Piece("preceded by '{k}'", "'{k}' + {x}", lambda x, k: k + x, ("-", "_", ".", "!")),
)  # fmt: skip
CHARACTER_NUMBERS = (
    Piece("replaced by its code", "ord({x})", lambda x, k: int.from_bytes(x.encode(), "big")),
    Piece("replaced by its code modulo {k}", "ord({x}) % {k}", lambda x, k: x.encode()[0] % k, SMALL),
    Piece("replaced by its code minus {k}", "ord({x}) - {k}", lambda x, k: x.encode()[0] - k, (32, 48, 64, 65, 96, 97)),
)

PAIR_TESTS = (
    Piece("have x greater than y", "x > y", lambda p, k: p[0] > p[1], opposite="x <= y"),
    Piece("have x less than y", "x < y", lambda p, k: p[1] > p[0], opposite="x >= y"),
    Piece("have x different from y", "x != y", lambda p, k: len({*p}) == 2, opposite="x == y"),
    Piece("have an even sum", "(x + y) % 2 == 0", lambda p, k: sum(p) % 2 == 0, opposite="(x + y) % 2 == 1"),
    Piece("have a sum greater than {k}", "x + y > {k}", lambda p, k: sum(p) > k, BOUNDS, "x + y <= {k}"),
    Piece("have a sum less than {k}", "x + y < {k}", lambda p, k: sum(p) < k, BOUNDS, "x + y >= {k}"),
    Piece("have x divisible by {k}", "x % {k} == 0", lambda p, k: p[0] % k == 0, SMALL, "x % {k} != 0"),
    Piece("have y divisible by {k}", "y % {k} == 0", lambda p, k: p[1] % k == 0, SMALL, "y % {k} != 0"),
    Piece("have x greater than {k}", "x > {k}", lambda p, k: p[0] > k, BOUNDS, "x <= {k}"),
    Piece("have y less than {k}", "y < {k}", lambda p, k: p[1] < k, BOUNDS, "y >= {k}"),
)
PAIR_NUMBERS = (
    Piece("replaced by its product", "x * y", lambda p, k: p[0] * p[1]),
    Piece("replaced by its sum", "x + y", lambda p, k: sum(p)),
    Piece("replaced by x minus y", "x - y", lambda p, k: p[0] - p[1]),
    Piece("replaced by y minus x", "y - x", lambda p, k: p[1] - p[0]),
    Piece("replaced by the distance between x and y", "abs(x - y)", lambda p, k: max(p) - min(p)),
    Piece("replaced by the larger of x and y", "max(x, y)", lambda p, k: sorted(p)[1]),
    Piece("replaced by the smaller of x and y", "min(x, y)", lambda p, k: sorted(p)[0]),
    Piece("replaced by {k} times x plus y", "{k} * x + y", lambda p, k: p[0] * k + p[1], SMALL),
    Piece("replaced by x plus {k} times y", "x + {k} * y", lambda p, k: p[0] + p[1] * k, SMALL),
    Piece("replaced by its product plus {k}", "x * y + {k}", lambda p, k: p[0] * p[1] + k, SMALL),
    Piece("replaced by its sum modulo {k}", "(x + y) % {k}", lambda p, k: sum(p) % k, SMALL),
)
