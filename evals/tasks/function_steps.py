"""Functions that take one way of several, as conditions say, and functions that change a value step by step."""

import ast
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmask.evals.tasks import function_pieces as pieces
from unmask.evals.tasks.function_pieces import BOUNDS, PAIRS, SMALL, Piece, Term, draw_term
from unmask.evals.tasks.function_scans import Lines, singular
from unmask.evals.tasks.function_specs import Spec


def _of_x(piece: Piece) -> Piece:
    """A predicate of one number as one of a pair's first."""
    words, source = f"x {singular(piece.words)}", piece.source.replace("{x}", "x")
    return Piece(words, source, lambda pair, k: piece.compute(pair[0], k), piece.constants)


# Of the pair (x, y); the first of each make do with x.
X_TESTS = tuple(map(_of_x, pieces.NUMBER_TESTS))
XY_TESTS = (
    Piece("x is greater than y", "x > y", lambda p, k: p[0] > p[1]),
    Piece("x is less than y", "x < y", lambda p, k: p[1] > p[0]),
    Piece("x equals y", "x == y", lambda p, k: len({*p}) == 1),
    Piece("x plus y is even", "(x + y) % 2 == 0", lambda p, k: sum(p) % 2 == 0),
    Piece("x plus y is greater than {k}", "x + y > {k}", lambda p, k: sum(p) > k, BOUNDS),
    Piece("x times y is less than {k}", "x * y < {k}", lambda p, k: p[0] * p[1] < k, BOUNDS),
    Piece("x minus y is greater than {k}", "x - y > {k}", lambda p, k: p[0] - p[1] > k, SMALL),
    Piece("y is divisible by {k}", "y % {k} == 0", lambda p, k: p[1] % k == 0, SMALL),
    Piece("y is less than {k}", "y < {k}", lambda p, k: p[1] < k, BOUNDS),
)
X_RESULTS = (
    Piece("x", "x", lambda p, k: p[0]),
    Piece("{k}", "{k}", lambda p, k: k, range(10)),
    Piece("minus x", "-x", lambda p, k: 0 - p[0]),
    Piece("x squared", "x * x", lambda p, k: p[0] ** 2),
    Piece("x plus {k}", "x + {k}", lambda p, k: p[0] + k, range(1, 13)),
    Piece("x minus {k}", "x - {k}", lambda p, k: p[0] - k, range(1, 13)),
    Piece("{k} minus x", "{k} - x", lambda p, k: k - p[0], range(1, 21)),
    Piece("{k} times x", "{k} * x", lambda p, k: p[0] * k, SMALL),
    Piece("x modulo {k}", "x % {k}", lambda p, k: p[0] - p[0] // k * k, SMALL),
    Piece("half of x rounded down", "x // 2", lambda p, k: (p[0] - p[0] % 2) // 2),
    Piece("{k[0]} times x plus {k[1]}", "{k[0]} * x + {k[1]}", lambda p, k: p[0] * k[0] + k[1], PAIRS),
)
XY_RESULTS = (
    Piece("y", "y", lambda p, k: p[1]),
    Piece("x plus y", "x + y", lambda p, k: sum(p)),
    Piece("x minus y", "x - y", lambda p, k: p[0] - p[1]),
    Piece("y minus x", "y - x", lambda p, k: p[1] - p[0]),
    Piece("x times y", "x * y", lambda p, k: p[1] * p[0]),
    Piece("{k} times x plus y", "{k} * x + y", lambda p, k: p[0] * k + p[1], SMALL),
    Piece("x plus {k} times y", "x + {k} * y", lambda p, k: p[0] + p[1] * k, SMALL),
    Piece("x times y plus {k}", "x * y + {k}", lambda p, k: p[0] * p[1] + k, SMALL),
    Piece("the larger of x and y", "max(x, y)", lambda p, k: sorted(p)[1]),
    Piece("the smaller of x and y", "min(x, y)", lambda p, k: sorted(p)[0]),
    Piece("the distance between x and y", "abs(x - y)", lambda p, k: max(p) - min(p)),
)


@dataclass(frozen=True)
class Branches:
    """As many results as tests, and one more for what meets no test."""

    arguments: tuple[str, ...]
    tests: tuple[Term, ...]
    results: tuple[Term, ...]

    @property
    def words(self) -> str:
        cases = [f"{result.words} if {test.words}" for test, result in zip(self.tests, self.results, strict=False)]
        return f"{', '.join(cases)}, and otherwise {self.results[-1].words}"

    def compute(self, *arguments: Any) -> Any:
        for test, result in zip(self.tests, self.results, strict=False):
            if test.compute(arguments):
                return result.compute(arguments)
        return self.results[-1].compute(arguments)

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("number",) * len(self.arguments)

    @property
    def constants(self) -> list[Any]:
        return [term.constant for term in (*self.tests, *self.results)]

    def near_misses(self) -> Iterator[Spec]:
        """Without each of the ways, and with each bound one off."""
        for i, test in enumerate(self.tests):
            before, after = self.tests[:i], self.tests[i + 1 :]
            yield replace(self, tests=before + after, results=self.results[:i] + self.results[i + 1 :])
            for off in test.off_by_one():
                yield replace(self, tests=(*before, off, *after))
        yield replace(self, tests=self.tests[:-1], results=self.results[:-1])

    def draw_body(self, rng: random.Random) -> Lines:
        tests, results = [test.source("x") for test in self.tests], [result.source("x") for result in self.results]
        style = rng.choice((self._expression, self._returns, self._returns, self._elses, self._assigned))
        return style(tests, results)

    def _expression(self, tests: Lines, results: Lines) -> Lines:
        cases = [f"{result} if {test} else " for test, result in zip(tests, results, strict=False)]
        return [f"return {''.join(cases)}{results[-1]}"]

    def _returns(self, tests: Lines, results: Lines) -> Lines:
        cases = [(f"if {test}:", f"    return {result}") for test, result in zip(tests, results, strict=False)]
        return [*(line for case in cases for line in case), f"return {results[-1]}"]

    def _elses(self, tests: Lines, results: Lines) -> Lines:
        lines = [f"if {tests[0]}:", f"    result = {results[0]}"]
        for test, result in zip(tests[1:], results[1:], strict=False):
            lines += [f"elif {test}:", f"    result = {result}"]
        return [*lines, "else:", f"    result = {results[-1]}", "return result"]

    def _assigned(self, tests: Lines, results: Lines) -> Lines:
        """The last result first, and then the tests from the last to the first, so that the first one wins."""
        lines = [f"result = {results[-1]}"]
        for test, result in reversed([*zip(tests, results, strict=False)]):
            lines += [f"if {test}:", f"    result = {result}"]
        return [*lines, "return result"]


LIST_STEPS = (
    Piece("sorted", "sorted({x})", lambda x, k: sorted(x)),
    Piece("sorted from largest to smallest", "sorted({x}, reverse=True)", lambda x, k: sorted(x)[::-1]),
    Piece("reversed", "{x}[::-1]", lambda x, k: [*reversed(x)]),
    Piece("without its first number", "{x}[1:]", lambda x, k: x[1:]),
    Piece("without its last number", "{x}[:-1]", lambda x, k: x[: len(x) - 1] if x else []),
    Piece("cut to its first {k} numbers", "{x}[:{k}]", lambda x, k: x[0:k], range(2, 7)),
    Piece("cut to its last {k} numbers", "{x}[-{k}:]", lambda x, k: x[max(0, len(x) - k) :], range(2, 7)),
    Piece("without its first {k} numbers", "{x}[{k}:]", lambda x, k: x[k:], range(2, 5)),
    Piece("with {k} appended", "{x} + [{k}]", lambda x, k: [*x, k], range(10)),
    Piece("with {k} put in front", "[{k}] + {x}", lambda x, k: [k, *x], range(10)),
    Piece("written twice", "{x} * 2", lambda x, k: [*x, *x]),
    Piece("with each number doubled", "[v * 2 for v in {x}]", lambda x, k: [v + v for v in x]),
    Piece("with each number squared", "[v * v for v in {x}]", lambda x, k: [v**2 for v in x]),
    Piece("with {k} added to each number", "[v + {k} for v in {x}]", lambda x, k: [k + v for v in x], SMALL),
    Piece("with each number multiplied by {k}", "[v * {k} for v in {x}]", lambda x, k: [k * v for v in x], SMALL),
    Piece("without the numbers above {k}", "[v for v in {x} if v <= {k}]", lambda x, k: [v for v in x if not v > k],
          range(3, 15)),
    Piece("without the numbers below {k}", "[v for v in {x} if v >= {k}]", lambda x, k: [v for v in x if not v < k],
          range(-5, 8)),
    Piece("without the odd numbers", "[v for v in {x} if v % 2 == 0]", lambda x, k: [v for v in x if not v % 2]),
    Piece("without the even numbers", "[v for v in {x} if v % 2 == 1]", lambda x, k: [v for v in x if v % 2]),
)  # fmt: skip
TEXT_STEPS = tuple(piece for piece in pieces.WORD_MAPS if not piece.source.endswith(("[0]", "[-1]")))
NUMBER_STEPS = tuple(piece for piece in pieces.NUMBER_MAPS if piece.source.count("{x}") == 1)
CHAINS: tuple[tuple[str, tuple[str, ...], tuple[Piece, ...]], ...] = (
    ("numbers", ("xs", "nums", "values"), LIST_STEPS),
    ("text", ("text", "s"), TEXT_STEPS),
    ("number", ("n", "x"), NUMBER_STEPS),
)


@dataclass(frozen=True)
class Chain:
    """A value changed in several steps."""

    kind: str
    name: str
    steps: tuple[Term, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def words(self) -> str:
        return f"{self.name} after these steps: {', then '.join(step.words for step in self.steps)}"

    def compute(self, *arguments: Any) -> Any:
        (value,) = arguments
        for step in self.steps:
            value = step.compute(value)
        return value

    @property
    def kinds(self) -> tuple[str, ...]:
        return (self.kind,)

    @property
    def constants(self) -> list[Any]:
        return [step.constant for step in self.steps]

    def near_misses(self) -> Iterator[Spec]:
        """Without each of the steps."""
        for i in range(len(self.steps)):
            yield replace(self, steps=self.steps[:i] + self.steps[i + 1 :])

    def draw_body(self, rng: random.Random) -> Lines:
        """So many of the steps on one line as is drawn: all, one, or some."""
        lines, value = [], self.name
        together = rng.choice((0.0, 0.5, 1.0))
        for step in self.steps:
            if value != self.name and rng.random() >= together:
                lines.append(f"{self.name} = {value}")
                value = self.name
            value = nested(step, value)
        if rng.random() < 0.3:
            return [*lines, f"{self.name} = {value}", f"return {self.name}"]
        return [*lines, f"return {value}"]


def nested(step: Term, value: str) -> str:
    """The source of a step of an expression, in brackets where it needs them."""
    whole = "({x}" in step.piece.source or "in {x}" in step.piece.source
    loose = not whole and isinstance(ast.parse(value, mode="eval").body, ast.BinOp | ast.UnaryOp)
    return step.source(f"({value})" if loose else value)


def draw_branches(rng: random.Random) -> Spec:
    two = rng.random() < 0.6
    tests = XY_TESTS + X_TESTS[: len(X_TESTS) // 2] if two else X_TESTS
    results = XY_RESULTS + X_RESULTS if two else X_RESULTS
    count = rng.choice((1, 1, 2))
    return Branches(("x", "y") if two else ("x",), _distinct(rng, tests, count), _distinct(rng, results, count + 1))


def draw_chain(rng: random.Random) -> Spec:
    kind, names, steps = rng.choice(CHAINS)
    return Chain(kind, rng.choice(names), _distinct(rng, steps, rng.randint(2, 4)))


def _distinct(rng: random.Random, choices: Sequence[Piece], count: int) -> tuple[Term, ...]:
    """Terms of pieces that differ."""
    return tuple(draw_term(rng, (piece,)) for piece in rng.sample(choices, count))
