"""Tasks that are drawn: right answers are graded right, wrong ones wrong, and no seed trains on what another holds out.

What a prompt asks for is worked out a second time, from its text alone, by code that shares nothing with the tasks.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from unmask.evals.tasks import TASKS, Styled, Task, TaskError, find_task, grade_all
from unmask.evals.tasks.base import DrawnTask, templated
from unmask.evals.tasks.json_objects import NAMES, STYLES, JsonProblem
from unmask.evals.tasks.smalltalk import ANSWER, SMALLTALK
from unmask.evals.tasks.smalltalk_prompts import FIRST
from unmask.evals.tasks.sudoku import CELLS, SIZE, UNITS
from unmask.evals.tasks.word_problems import WordProblem

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
DRAWN = {name: task for name, task in TASKS.items() if isinstance(task, DrawnTask)}


def some(task: Task, count: int = 80, seed: int = 0) -> list[Any]:
    return list(islice(task.problems(seed, "held-out"), count))


@EACH_TASK
def test_a_solution_is_graded_right_whatever_surrounds_it(task: Task) -> None:
    problems = some(task)
    assert all(grade_all(problems, [problem.solution for problem in problems]))
    assert all(grade_all(problems, [f"\n{problem.solution} \n" for problem in problems]))


@EACH_TASK
def test_what_is_no_answer_is_graded_wrong(task: Task) -> None:
    problems = some(task)
    prompts, solutions = [problem.prompt for problem in problems], [problem.solution for problem in problems]
    assert not any(grade_all(problems, prompts))
    assert not any(grade_all(problems, [""] * len(problems)))
    assert not any(grade_all(problems, [solution[:-1] + "\\" for solution in solutions]))


@EACH_TASK
def test_seeds_draw_different_problems_and_equal_seeds_equal_ones(task: Task) -> None:
    first, again, other = some(task, seed=1), some(task, seed=1), some(task, seed=2)
    assert first == again
    assert not {p.prompt for p in first} & {p.prompt for p in other}


def test_no_seed_holds_out_a_prompt_that_another_trains_on() -> None:
    few = DrawnTask("few", "three hundred problems", 1, lambda rng: WordProblem(f"problem {rng.randrange(300)}", "", 0))
    held_out = {problem.prompt for seed in range(3) for problem in islice(few.problems(seed, "held-out"), 500)}
    trained = {problem.prompt for seed in range(3) for problem in islice(few.problems(seed, "train"), 2000)}
    assert not held_out & trained
    assert len(held_out | trained) == 300
    assert 20 <= len(held_out) <= 60  # one in eight


@pytest.mark.parametrize("name", DRAWN)
def test_a_template_alone_can_be_had(name: str) -> None:
    numbers = range(1, len(DRAWN[name].templates) + 1)
    tasks = [find_task(f"{name}:template={number}") for number in numbers]
    assert [task.name for task in tasks] == [f"{name}:template={number}" for number in numbers]
    drawn = [some(task, 30) for task in tasks]
    asked = [{problem.prompt for problem in problems} for problems in drawn]
    assert len(set().union(*asked)) == sum(map(len, asked))
    for task, problems in zip(tasks, drawn, strict=True):
        assert task.max_tokens == TASKS[name].max_tokens
        assert all(grade_all(problems, [problem.solution for problem in problems]))
        with pytest.raises(TaskError, match=f"task {task.name} has one template only; leave out template=1"):
            task.of_template("1")  # type: ignore[attr-defined]


def test_every_template_is_drawn() -> None:
    task = templated("few", "", 1, lambda rng, template: WordProblem(f"{template} {rng.random()}", "", 0), templates=3)
    assert {problem.prompt[0] for problem in some(task)} == set("012")


@pytest.mark.parametrize("name", ["long-word-problems", "list-chains"])
def test_the_length_of_an_answer_cannot_be_told_from_the_prompt(name: str) -> None:
    """Among prompts of nearly one length, some answers are three times as long as others; styles vary in each."""
    problems = some(TASKS[name], 3000)
    middle = sorted(len(problem.prompt) for problem in problems)[1500]
    alike = [problem for problem in problems if abs(len(problem.prompt) - middle) < 3]
    lengths = sorted(len(problem.solution) for problem in alike)
    assert lengths[-len(lengths) // 20] > 3 * lengths[len(lengths) // 20]
    styles = Counter(problem.style(problem.solution) for problem in alike)
    assert set(styles) == {"plain", "merged", "bare"}
    assert min(styles.values()) > len(alike) / 20


@pytest.mark.parametrize(
    ("name", "completion", "style"),
    [
        ("long-word-problems", "1 + 2 = 3\n3 * 2 = 6\n#### 6", "plain"),
        ("long-word-problems", "1 + 2 * 2 = 6\n#### 6", "merged"),
        ("long-word-problems", "#### 6", "bare"),
        ("long-word-problems", "", "bare"),
        ("list-chains", "[1]\n" * 9 + "#### [1]", "plain"),
        ("list-chains", "reverse:\n[1]\n#### [1]", "merged"),
        ("list-chains", "#### [1]", "bare"),
        ("json", '{"a": 1}', "spaced"),
        ("json", '{"a":1}', "compact"),
        ("json", '{\n  "a": 1\n}', "indented"),
    ],
)
def test_a_style_is_told_from_the_completion(name: str, completion: str, style: str) -> None:
    problem = some(TASKS[name], 1)[0]
    assert isinstance(problem, Styled)
    assert problem.style(completion) == style


# ---- word problems

GAIN = r"(?:finds|buys|gets|wins) (\d+) more|; \+(\d)"
LOSS = r"(?:loses|sells|gives away|drops) (\d+)|; -(\d)"
TIMES = r"(doubles|triples) the|; \*(\d)"
EVENT = re.compile(f"(?P<gain>{GAIN})|(?P<loss>{LOSS})|(?P<times>{TIMES})")
SIGNS = {"gain": "+", "loss": "-", "times": "*"}
FACTORS = {"doubles": "2", "triples": "3"}


def operations(prompt: str) -> tuple[int, list[tuple[str, str]]]:
    """The start and the operations that a prompt tells."""
    start = re.search(r"\d+", prompt)
    assert start is not None
    return int(start[0]), told(prompt)


def told(text: str) -> list[tuple[str, str]]:
    """The operations that a text tells in events."""
    found = []
    for event in EVENT.finditer(text):
        kind = str(event.lastgroup)
        operand = next(group for group in event.groups()[event.re.groupindex[kind] :] if group)
        found.append((SIGNS[kind], FACTORS.get(operand, operand)))
    return found


def test_long_word_problems_are_worked_line_by_line() -> None:
    """A line starts with the total so far, holds operations in the order of the events, and is right.

    A bare solution has no line.
    """
    bare = 0
    for problem in some(TASKS["long-word-problems"], 2000):
        *lines, answer = problem.solution.split("\n")
        total, expected = operations(problem.prompt)
        assert 5 <= len(expected) <= 9
        done = []
        for line in (line for line in lines if not line.endswith(":")):
            left, result = line.split(" = ")
            first, *rest = left.split(" ")
            assert int(first) == total
            assert rest
            for sign, operand in zip(rest[::2], rest[1::2], strict=True):
                total = {"+": total + int(operand), "-": total - int(operand), "*": total * int(operand)}[sign]
                assert 0 <= total <= 50
                done.append((sign, operand))
            assert int(result) == total
        if not lines:
            bare += 1
            total = worked_out(total, expected)
        else:
            assert done == expected
        assert answer == f"#### {total}"
        assert problem.grade(answer)
        assert not problem.grade(f"#### {total + 1}")
        assert not problem.grade(f"#### 1{total}")
        assert not problem.grade(f"#### {total + 1}\n#### {total}")
    assert 100 < bare < 300


def worked_out(total: int, changes: list[tuple[str, str]]) -> int:
    for sign, operand in changes:
        total = {"+": total + int(operand), "-": total - int(operand), "*": total * int(operand)}[sign]
    return total


IN_WORDS = {"add": "+", "take": "-", "times": "*"}


def test_a_line_is_introduced_by_its_own_steps_in_one_form_throughout() -> None:
    """As signs, as words for signs where the prompt has no events, or as the events themselves."""
    introduced = 0
    for problem in some(TASKS["long-word-problems"], 1000):
        *lines, _ = problem.solution.split("\n")
        intros = [line for line in lines if line.endswith(":")]
        if not intros:
            continue
        assert lines[::2] == intros
        for intro, line in zip(intros, lines[1::2], strict=True):
            introduced += 1
            signs = re.findall(r"([-+*])(\d)", intro)
            words = [(IN_WORDS[word], operand) for word, operand in re.findall(r"(add|take|times) (\d)", intro)]
            assert (signs or words or told(intro)) == re.findall(r"([-+*]) (\d)", line)
            assert signs or words or re.sub(r"^[A-Z]\w+ ", "", intro[:-1]).split(", ")[0] in problem.prompt
        assert len({bool(re.match(r"[A-Z]|then", intro)) for intro in intros}) == 1
        assert len({bool(re.match(r"[-+*]\d", intro)) for intro in intros}) == 1
    assert introduced > 1000


# ---- JSON


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in (key, *leaves(one))]
    return [leaf for one in value for leaf in leaves(one)] if isinstance(value, list) else [value]


DERIVED: dict[str, Callable[[str], list[int]]] = {
    "total": lambda text: [int(number) for number in re.findall(r"\d+", text)],
    "guests": lambda text: [1] * len(re.findall(rf"\b({'|'.join(NAMES)})\b", text)),
}


def test_json_holds_the_keys_that_are_named_and_what_the_text_tells() -> None:
    styles: Counter[str] = Counter()
    for problem in some(TASKS["json"], 2000):
        assert isinstance(problem, JsonProblem)
        value = json.loads(problem.solution)
        styles[problem.style(problem.solution)] += 1
        assert len(value) >= 2
        for key, one in value.items():
            assert re.search(rf"\b{key}\b", problem.prompt)
            if key in DERIVED:
                assert one == sum(DERIVED[key](problem.prompt))
            else:
                assert all(re.search(rf"\b{leaf}\b", problem.prompt) for leaf in leaves(one))
    assert set(styles) == set(STYLES)


def test_json_is_graded_by_value() -> None:
    for problem in some(TASKS["json"], 1000):
        value = json.loads(problem.solution)
        assert problem.grade(json.dumps(dict(reversed(value.items())), indent=1))
        for key, one in value.items():
            for wrong in ([one], str(one) + "x", None, True):
                assert not problem.grade(json.dumps(value | {key: wrong}))
            assert not problem.grade(json.dumps({other: value[other] for other in value if other != key}))
            if isinstance(one, int):
                assert not problem.grade(json.dumps(value | {key: one + 1}))
                assert not problem.grade(json.dumps(value | {key: str(one)}))
                assert not problem.grade(json.dumps(value | {key: float(one)}))
            if isinstance(one, list) and len(one) > 1 and one != one[::-1]:
                assert not problem.grade(json.dumps(value | {key: one[::-1]}))
        assert not problem.grade(json.dumps(value | {"more": 1}))
        assert not problem.grade(problem.solution + "}")
    assert not problem.grade("[" * 100_000)


# ---- Sudoku


def test_sudokus_have_exactly_one_solution() -> None:
    for problem in some(TASKS["sudoku"], 20):
        grid = [0 if cell == "_" else int(cell) for cell in re.findall(r" ([\d_])", problem.prompt)]
        solutions = list(islice(solve(grid), 2))
        assert solutions == [[int(digit) for digit in problem.solution.split()]]


def solve(grid: list[int]) -> "list[list[int]]":
    """Every solution, by trying each digit in the first empty cell."""
    if 0 not in grid:
        return [grid]
    cell = grid.index(0)
    taken = {grid[other] for other in CELLS if set(UNITS[cell]) & set(UNITS[other])}
    fills = [[*grid[:cell], digit, *grid[cell + 1 :]] for digit in range(1, SIZE + 1) if digit not in taken]
    return [solution for fill in fills for solution in solve(fill)]


# ---- first prompts


def test_first_prompts_are_answered_by_one_sentence() -> None:
    held_out, train = (list(islice(SMALLTALK.problems(0, split), 3000)) for split in ("held-out", "train"))
    for problem in held_out + train:
        assert problem.solution == ANSWER
        assert problem.grade(f"\n{ANSWER} ")
        assert not problem.grade(ANSWER[:-1])
        assert not problem.grade("")
        assert problem.prompt.strip()
    assert list(islice(SMALLTALK.problems(0, "train"), 3000)) == train


def test_what_a_first_prompt_asks_is_held_out_in_every_wording() -> None:
    def asked(split: Any) -> set[str]:
        prompts = {problem.prompt for problem in islice(SMALLTALK.problems(1, split), 20_000)}
        return {re.sub(r"\W", "", prompt).lower() for prompt in prompts}

    held_out, train = asked("held-out"), asked("train")
    assert not held_out & train
    assert {re.sub(r"\W", "", first).lower() for first in FIRST} <= train
    assert len(held_out) > 1000
