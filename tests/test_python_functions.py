"""Small Python functions: right ones of every style pass their hidden tests, near misses fail, and nothing leaks."""

import ast
import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest

from unmask.evals.tasks import TASKS, grade_all
from unmask.evals.tasks.function_scans import Question, Scan
from unmask.evals.tasks.function_specs import Spec
from unmask.evals.tasks.function_steps import Branches, Chain
from unmask.evals.tasks.python_functions import GAP, Case, FunctionProblem, draw_function

NAMES = ("python", "python-gap")
EACH_TASK = pytest.mark.parametrize("name", NAMES)


def some(name: str, count: int, seed: int = 0) -> list[FunctionProblem]:
    problems = list(islice(TASKS[name].problems(seed, "train"), count))
    assert all(isinstance(problem, FunctionProblem) for problem in problems)
    return problems  # type: ignore[return-value]


@EACH_TASK
def test_every_solution_passes_its_hidden_tests(name: str) -> None:
    problems = some(name, 500, seed=1)
    assert all(grade_all(problems, [problem.solution for problem in problems]))


def test_every_style_of_every_kind_is_drawn_and_right() -> None:
    """What runs here is the project's own, so no sandbox is needed to run many."""
    rng = random.Random(0)
    seen: Counter[tuple[type[Spec], str]] = Counter()
    for _ in range(2000):
        drawn = draw_function(rng)
        problem = FunctionProblem("", drawn.source, drawn.name, drawn.tests)
        seen[type(drawn.spec), problem.style(drawn.source)] += 1
        for _ in range(4):
            names: dict[str, Callable[..., object]] = {}
            body = "\n    ".join(drawn.spec.draw_body(rng))
            exec(f"def function({', '.join(drawn.spec.arguments)}):\n    {body}", names)
            assert all(names["function"](*given) == wanted for given, wanted in drawn.tests), body
    kinds = {kind for kind, _ in seen}
    assert kinds == {Scan, Question, Branches, Chain}
    assert all(seen[kind, style] > 50 for kind in (Branches, Chain) for style in ("expression", "lines"))
    assert all(seen[kind, style] > 50 for kind in (Scan, Question) for style in ("expression", "loop"))
    assert seen[Scan, "lines"] > 50


def test_an_operator_a_constant_or_an_ending_that_is_wrong_fails() -> None:
    """One change each, of those that change what a function does in nearly every case."""
    changes = (
        (" % 2 == 0", " % 2 == 1"), (r" > (\d)", r" >= \1"), (r" < (\d)", r" <= \1"), (" and ", " or "),
        ("startswith", "endswith"), (r"\.upper\(\)", ""), ("total = 0", "total = 1"), ("result = 1", "result = 0"),
        (r"sorted\(", "list("), ("return True", "return False"), (r"\bmax\(", "min("), (r"\[::-1\]", ""),
        (r" \+ (\d+)", r" - \1"),
    )  # fmt: skip
    problems = some("python", 1500)
    for old, new in changes:
        asked = [problem for problem in problems if re.search(old, problem.solution)]
        assert len(asked) >= 15
        passed = sum(grade_all(asked, [re.sub(old, new, problem.solution, count=1) for problem in asked]))
        assert passed <= len(asked) / 4, (old, new, passed, len(asked))


@EACH_TASK
def test_no_constant_and_no_other_problems_answer_passes(name: str) -> None:
    problems = some(name, 150)
    others = [problem.solution for problem in problems[1:]] + [problems[0].solution]
    assert sum(grade_all(problems, others)) <= 2
    if name == "python":
        for constant in ("None", "0", "True", "''", "[]"):
            answers = [f"def {problem.name}(*_):\n    return {constant}" for problem in problems]
            assert not any(grade_all(problems, answers))


@EACH_TASK
def test_a_prompt_holds_the_examples_that_are_meant_to_be_seen_and_no_hidden_test(name: str) -> None:
    shown = 0
    for problem in some(name, 1000):
        examples = re.findall(rf"^# {problem.name}\((.*)\) == (.*)$", problem.prompt, re.MULTILINE)
        seen = {ast.literal_eval(f"({given},)") for given, _ in map(_frozen, examples)}
        hidden = {ast.literal_eval(_frozen((repr(given)[1:-1].rstrip(","), ""))[0] + ",") for given, _ in problem.tests}
        assert not seen & hidden
        assert len(examples) in (0, 2)
        assert len(problem.tests) >= 6
        shown += bool(examples)
    assert 100 < shown < 400


def _frozen(example: tuple[str, str]) -> tuple[str, str]:
    """Lists as tuples, so that arguments can be kept in a set."""
    given, wanted = example
    return re.sub(r"\[(?=[^\]])", "(", re.sub(r"(?<=[^\[])\]", ",)", given)).replace("[]", "()"), wanted


def test_a_gap_is_where_the_solution_was() -> None:
    """And what is asked for with it is what the whole function is graded by."""
    lengths: Counter[int] = Counter()
    for problem in some("python-gap", 1000):
        assert problem.frame.count(GAP) == 1
        ast.parse(problem.frame.replace(GAP, problem.solution))
        head, _, tail = problem.frame.partition(GAP)
        lines = {line for part in (head, tail) for line in part.split("\n") if line.strip()}
        assert all(line in problem.prompt for line in lines)
        lengths[min(problem.solution.count("\n"), 2)] += 1
    assert all(lengths[lines] > 50 for lines in range(3))


def test_a_gap_is_filled_by_any_text_that_does_the_same() -> None:
    frame = f"def f(xs):\n    total = 0\n    for x in xs:\n        {GAP}\n    return total"
    tests: tuple[Case, ...] = ((([1, 2, 3],), 2), (([4, 6],), 10), (([],), 0))
    problem = FunctionProblem("", "if x % 2 == 0:\n            total += x", "f", tests, frame)
    for right in (problem.solution, "total += x * (1 - x % 2)", f"```python\n{problem.solution}\n```"):
        assert problem.grade(right)
    for wrong in ("total += x", "if x % 2 == 0:\n    total += x", "return 2", "", "import os; os._exit(0)"):
        assert not problem.grade(wrong)


def test_the_length_of_a_solution_cannot_be_told_from_the_prompt() -> None:
    """One function is asked for in one way, and answered in several lengths."""
    lengths = [draw_lengths(seed) for seed in range(300)]
    assert sum(max(found) >= 1.5 * min(found) for found in lengths) > len(lengths) / 2


def draw_lengths(seed: int) -> list[int]:
    rng = random.Random(seed)
    drawn = draw_function(rng)
    return [len("\n".join(drawn.spec.draw_body(rng))) for _ in range(8)]
