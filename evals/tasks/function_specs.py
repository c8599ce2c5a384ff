"""What a drawn Python function is to compute: words for it, a reference, inputs, and bodies in several styles."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Values = list[Any]


class Spec(Protocol):
    """A function without its name.

    arguments    the names of its arguments
    kinds        what they are, see `draw_argument`
    constants    that it holds
    words        what it returns, as "returns" is followed by it
    compute      the reference, of the arguments
    near_misses  functions that lack a part of it or have another bound; its tests must tell them from it
    draw_body    the lines of a right body, without indentation of their own, in a style drawn
    """

    @property
    def arguments(self) -> tuple[str, ...]: ...

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def constants(self) -> list[Any]: ...

    @property
    def words(self) -> str: ...

    def compute(self, *arguments: Any) -> Any: ...

    def near_misses(self) -> Iterator["Spec"]: ...

    def draw_body(self, rng: random.Random) -> list[str]: ...


@dataclass(frozen=True)
class Source:
    """What a function goes through.

    kinds     of the arguments, see `draw_argument`
    words     with the arguments' names as {a} and {b} and the constant as {k}
    source    an expression
    elements  of the constant and the arguments
    """

    kinds: tuple[str, ...]
    words: str
    source: str
    elements: Callable[..., Values]
    constants: Sequence[Any] = (None,)


NUMBER_SOURCES = (
    *[Source(("numbers",), "the numbers in {a}", "{a}", lambda k, a: a)] * 6,
    *[Source(("n",), "the numbers from 1 to {a}", "range(1, {a} + 1)", lambda k, n: [i + 1 for i in range(n)])] * 2,
    Source(("n",), "the numbers from {k} to {a}", "range({k}, {a} + 1)", lambda k, n: [*range(k, n + 1)], range(2, 6)),
    Source(("low", "n"), "the numbers from {a} to {b}", "range({a}, {b} + 1)", lambda k, a, b: [*range(a, b + 1)]),
    Source(("n",), "the digits of {a}", "map(int, str({a}))", lambda k, n: [ord(c) - 48 for c in f"{n}"]),
    Source(("numbers",), "the numbers in {a} after the first", "{a}[1:]", lambda k, a: a[1:]),
    Source(("numbers",), "the numbers in {a} before the last", "{a}[:-1]", lambda k, a: a[: len(a) - 1] if a else []),
    Source(("numbers",), "the numbers at even indices of {a}", "{a}[::2]", lambda k, a: [*a[0::2]]),
    Source(("numbers",), "the numbers at odd indices of {a}", "{a}[1::2]", lambda k, a: [*a[1::2]]),
    Source(("numbers",), "the numbers among the first {k} of {a}", "{a}[:{k}]", lambda k, a: a[0:k], range(2, 7)),
    Source(("numbers", "numbers"), "the numbers in {a} and then {b}", "{a} + {b}", lambda k, a, b: [*a, *b]),
)
WORD_SOURCES = (
    *[Source(("words",), "the words in {a}", "{a}", lambda k, a: a)] * 3,
    *[Source(("text",), "the words of {a}", "{a}.split()", lambda k, a: a.split())] * 2,
    Source(("words",), "the words in {a} after the first", "{a}[1:]", lambda k, a: a[1:]),
    Source(("words",), "the words among the first {k} of {a}", "{a}[:{k}]", lambda k, a: a[0:k], range(2, 6)),
    Source(("words", "words"), "the words in {a} and then {b}", "{a} + {b}", lambda k, a, b: [*a, *b]),
)
CHARACTER_SOURCES = (
    *[Source(("text",), "the characters of {a}", "{a}", lambda k, a: list(a))] * 3,
    Source(("text",), "the characters of {a} taken backwards", "{a}[::-1]", lambda k, a: list(reversed(a))),
    Source(("text",), "the characters of {a} after the first", "{a}[1:]", lambda k, a: list(a)[1:]),
    Source(("text", "text"), "the characters of {a} and then {b}", "{a} + {b}", lambda k, a, b: [*a, *b]),
)
PAIR_SOURCES = (
    Source(
        ("numbers", "numbers"),
        "the pairs x, y at equal indices of {a} and {b}",
        "zip({a}, {b})",
        lambda k, a, b: [(a[i], b[i]) for i in range(min(len(a), len(b)))],
    ),
)


@dataclass(frozen=True)
class Ending:
    """What a function does with the values that it finds, in words and in a loop.

    before, after  words around those for the values
    compute        of the list of values
    start, update  the lines in front of a loop and in it, where {e} is the value
    end            what is returned in the end
    whole          an expression of a generator {gen}, or none
    listed         whether the values are collected in `result`, so that a comprehension may replace the loop
    """

    before: str
    after: str
    compute: Callable[[Values], Any]
    start: tuple[str, ...]
    update: tuple[str, ...]
    end: str
    whole: str = ""
    listed: bool = False


def _product(values: Values) -> int:
    product = 1
    for value in values:
        product *= value
    return product


def _running(values: Values) -> Values:
    return [sum(values[: i + 1]) for i in range(len(values))]


def _joined(mark: str) -> Callable[[Values], str]:
    def join(values: Values) -> str:
        text = ""
        for i, value in enumerate(values):
            text += (mark if i else "") + value
        return text

    return join


LIST, APPEND, NONE = ("result = []",), ("result.append({e})",), ", or 0 if there are none"
NUMBER_ENDINGS = (
    *[Ending("the sum of ", "", sum, ("total = 0",), ("total += {e}",), "total", "sum({gen})")] * 3,
    *[Ending("the product of ", "", _product, ("result = 1",), ("result *= {e}",), "result")] * 2,
    *[Ending("a list of ", "", list, LIST, APPEND, "result", "[{gen}]", True)] * 2,
    Ending("a sorted list of ", "", sorted, LIST, APPEND, "sorted(result)", "sorted({gen})", True),
    Ending("the largest of ", NONE, lambda v: sorted(v)[-1] if v else 0, LIST, APPEND,
           "max(result, default=0)", "max(({gen}), default=0)", True),
    Ending("the smallest of ", NONE, lambda v: sorted(v)[0] if v else 0, LIST, APPEND,
           "min(result, default=0)", "min(({gen}), default=0)", True),
    Ending("the number of distinct values among ", "", lambda v: len(dict.fromkeys(v)), ("seen = set()",),
           ("seen.add({e})",), "len(seen)", "len(set({gen}))"),
    Ending("the running totals of ", "", _running, ("total = 0", "result = []"),
           ("total += {e}", "result.append(total)"), "result"),
    Ending("the largest minus the smallest of ", NONE, lambda v: sorted(v)[-1] - sorted(v)[0] if v else 0, LIST,
           APPEND, "max(result) - min(result) if result else 0", listed=True),
)  # fmt: skip
TEXT_ENDINGS = (
    *[Ending("a list of ", "", list, LIST, APPEND, "result", "[{gen}]", True)] * 2,
    *[Ending("one string of ", "", _joined(""), ("result = ''",), ("result += {e}",), "result",
             "''.join({gen})")] * 2,
    *[Ending("one string of ", f", joined by '{mark}'", _joined(mark), LIST, APPEND,
             f"'{mark}'.join(result)", f"'{mark}'.join({{gen}})", True) for mark in ("-", ", ", " ")],
    Ending("a sorted list of ", "", sorted, LIST, APPEND, "sorted(result)", "sorted({gen})", True),
    Ending("the number of distinct values among ", "", lambda v: len(dict.fromkeys(v)), ("seen = set()",),
           ("seen.add({e})",), "len(seen)", "len(set({gen}))"),
)  # fmt: skip
ANY_ENDINGS = (
    Ending("the first of ", ", or None if there are none", lambda v: v[0] if v else None, (), ("return {e}",),
           "None", "next(({gen}), None)"),
    Ending("the last of ", ", or None if there are none", lambda v: v[-1] if v else None, ("last = None",),
           ("last = {e}",), "last"),
)  # fmt: skip
