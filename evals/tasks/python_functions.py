"""Small Python functions from a description, and the same with a gap to fill, graded by hidden tests.

    Write a function f(xs) that returns the sum of the numbers in xs that are even, each squared.

    def f(xs):
        return sum(x * x for x in xs if x % 2 == 0)

What is asked for is put together of predicates, maps, sources and endings, of branches, or of steps: some hundreds of
thousands of functions. A right solution is drawn among styles, from one expression to a loop of several lines, so
that its length does not follow from the prompt. A completion is run in the sandbox against inputs drawn with the
problem. What they should give is computed by a reference, not by the solution.
"""

import ast
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

from unmask.evals import sandbox
from unmask.evals.tasks.base import templated
from unmask.evals.tasks.function_inputs import Pool, draw_arguments
from unmask.evals.tasks.function_scans import draw_scan, indent
from unmask.evals.tasks.function_specs import Spec
from unmask.evals.tasks.function_steps import draw_branches, draw_chain
from unmask.evals.tasks.programs import code_of

NAMES = ("f", "g", "solve", "compute", "answer", "convert", "process", "evaluate")
SPECS: tuple[Callable[[random.Random], Spec], ...] = (*[draw_scan] * 5, draw_branches, draw_chain)
HIDDEN_TESTS = 12
EXAMPLES = 2
LONGEST_EXAMPLE = 60  # characters
COMMONEST_OUTCOME = 0.75  # of the hidden tests
GAP = "____"
EXPRESSION_SHARE = 0.4  # of the gaps; the others are whole lines of one block
MOST_LINES = 4
SHORTEST_EXPRESSION = 3  # characters

Case = tuple[tuple[Any, ...], Any]  # arguments, and what the function should return


@dataclass(frozen=True)
class FunctionProblem:
    """`frame` holds the function that is tested: a completion alone, or with its place as a gap."""

    prompt: str
    solution: str
    name: str
    tests: tuple[Case, ...]
    frame: str = GAP

    def grade(self, completion: str) -> bool:
        """Right when the function passes the hidden tests in the sandbox."""
        return sandbox.run(self.program(completion))

    def program(self, completion: str) -> sandbox.Program:
        """The function, and its tests."""
        tests = f"for given, wanted in {self.tests!r}:\n    assert {self.name}(*given) == wanted"
        return [self.frame.replace(GAP, code_of(completion).strip()), tests]

    def style(self, completion: str) -> str:
        """`loop`, `lines` without a loop, or `expression`, which is all one line."""
        lines = code_of(completion).strip().split("\n")
        if any(line.lstrip().startswith("for ") for line in lines):
            return "loop"
        return "expression" if len(lines) <= 1 + lines[0].startswith("def ") else "lines"


@dataclass(frozen=True)
class Drawn:
    """A function asked for, with a right source of it, and its cases."""

    name: str
    spec: Spec
    source: str
    tests: tuple[Case, ...]
    examples: tuple[Case, ...]

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(self.spec.arguments)})"


def _sentence(drawn: Drawn) -> str:
    return f"Write a function {drawn.signature} that returns {drawn.spec.words}."


def _docstring(drawn: Drawn) -> str:
    return f'Complete the function.\n\ndef {drawn.signature}:\n    """Return {drawn.spec.words}."""'


def _comment(drawn: Drawn) -> str:
    shown = [f"# {drawn.name}({', '.join(map(repr, given))}) == {wanted!r}" for given, wanted in drawn.examples]
    return "\n".join([f"# {drawn.signature} returns {drawn.spec.words}.", *shown])


def _definition(drawn: Drawn) -> str:
    names = " and ".join(drawn.spec.arguments)
    return f"Define {drawn.name} in Python. Given {names}, it gives back {drawn.spec.words}."


def _terse(drawn: Drawn) -> str:
    return f"Python, {drawn.signature}: {drawn.spec.words}"


TEMPLATES: tuple[Callable[[Drawn], str], ...] = (_sentence, _docstring, _comment, _definition, _terse)


def _fill(drawn: Drawn, frame: str) -> str:
    return f"Fill the gap {GAP}: {drawn.signature} returns {drawn.spec.words}.\n\n{frame}"


def _ask(drawn: Drawn, frame: str) -> str:
    return f"{frame}\n\nWhat belongs at {GAP}, so that {drawn.name} returns {drawn.spec.words}?"


def _comment_above(drawn: Drawn, frame: str) -> str:
    return f"Write what {GAP} stands for.\n\n{_comment(drawn)}\n{frame}"


def _docstring_inside(drawn: Drawn, frame: str) -> str:
    head, body = frame.split("\n", 1)
    return f'Complete {GAP}.\n\n{head}\n    """Return {drawn.spec.words}."""\n{body}'


GAP_TEMPLATES: tuple[Callable[[Drawn, str], str], ...] = (_fill, _ask, _comment_above, _docstring_inside)


def draw(rng: random.Random, template: int) -> FunctionProblem:
    drawn = draw_function(rng)
    return FunctionProblem(TEMPLATES[template](drawn), drawn.source, drawn.name, drawn.tests)


def draw_gap(rng: random.Random, template: int) -> FunctionProblem:
    """As `draw`, with an expression, a line or several lines of the function taken out."""
    drawn = draw_function(rng)
    start, end = _draw_gap(rng, drawn.source)
    frame = drawn.source[:start] + GAP + drawn.source[end:]
    prompt = GAP_TEMPLATES[template](drawn, frame)
    return FunctionProblem(prompt, drawn.source[start:end], drawn.name, drawn.tests, frame)


def draw_function(rng: random.Random) -> Drawn:
    while True:
        spec = rng.choice(SPECS)(rng)
        cases = _cases(spec, rng)
        examples = [case for case in cases if len(repr(case)) <= LONGEST_EXAMPLE][:EXAMPLES]
        tests = [case for case in cases if case not in examples]
        if len(examples) == EXAMPLES and _telling(spec, tests):
            break
    name = rng.choice(NAMES)
    source = "\n".join([f"def {name}({', '.join(spec.arguments)}):", *indent(spec.draw_body(rng))])
    return Drawn(name, spec, source, tuple(tests), tuple(examples))


def _telling(spec: Spec, tests: list[Case]) -> bool:
    """Whether tests want different things, so that no constant nearly passes, and every near miss fails one of them."""
    commonest = max(Counter(repr(wanted) for _, wanted in tests).values(), default=0)
    return (
        len(tests) >= HIDDEN_TESTS // 2
        and commonest <= COMMONEST_OUTCOME * len(tests)
        and all(any(near.compute(*given) != wanted for given, wanted in tests) for near in spec.near_misses())
    )


def _cases(spec: Spec, rng: random.Random) -> list[Case]:
    """Inputs, all different, and what they give."""
    pool = Pool.near(spec.constants)
    drawn = [draw_arguments(rng, spec.kinds, pool) for _ in range(HIDDEN_TESTS + EXAMPLES)]
    return [(given, spec.compute(*given)) for given in {repr(given): given for given in drawn}.values()]


def _draw_gap(rng: random.Random, source: str) -> tuple[int, int]:
    """Where the gap is, start and end: lines of one block, or an expression that is more than a name or a constant."""
    lines = source.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    if rng.random() < EXPRESSION_SHARE and (found := _expressions(source)):
        line, start, end = rng.choice(found)
        return starts[line - 1] + start, starts[line - 1] + end
    first = rng.randrange(1, len(lines) - (lines[-1].strip() == "return None"))  # which a function does by itself
    margin = len(lines[first]) - len(lines[first].lstrip())
    block = list(takewhile(lambda line: not line[:margin].strip(), lines[first:]))
    longest = min(len(block), MOST_LINES)
    last = first + rng.choice((longest, rng.randint(1, longest))) - 1
    return starts[first] + margin, starts[last + 1] - 1


def _expressions(source: str) -> list[tuple[int, int, int]]:
    """Line, start and end of each."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.expr)]
    places = [
        (n.lineno, n.col_offset, n.end_col_offset or 0) for n in nodes if not isinstance(n, ast.Name | ast.Constant)
    ]
    return [place for place in places if place[2] - place[1] >= SHORTEST_EXPRESSION]


TASK = templated("python", "small Python functions from a description, run against tests", 128, draw, len(TEMPLATES))
GAP_TASK = templated("python-gap", "missing parts of small Python functions", 128, draw_gap, len(GAP_TEMPLATES))
