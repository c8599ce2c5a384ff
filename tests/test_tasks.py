"""The tasks: right answers are graded right, wrong ones wrong, and no seed leaks a held-out problem into training."""

import random
import re
from itertools import islice

import pytest

from evals.tasks import TASKS, Problem, Task
from evals.tasks.sudoku import CELLS, SIZE, UNITS
from evals.tasks.word_problems import WordProblem

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


def some(task: Task, count: int = 200, seed: int = 0) -> list[Problem]:
    return list(islice(task.problems(seed, "held-out"), count))


@EACH_TASK
def test_a_solution_is_graded_right_whatever_surrounds_it(task: Task) -> None:
    for problem in some(task):
        assert problem.grade(problem.solution)
        assert problem.grade(f"\n{problem.solution} \n")


@EACH_TASK
def test_other_completions_are_graded_wrong(task: Task) -> None:
    problems = some(task)
    rng = random.Random(0)
    for problem in problems:
        digits = [i for i, c in enumerate(problem.solution) if c.isdigit()]
        last = digits[-1]
        wrong = problem.solution[:last] + str((int(problem.solution[last]) + rng.randint(1, 9)) % 10)
        assert not problem.grade(wrong)
        assert not problem.grade("")
        assert not problem.grade(problem.prompt)


@EACH_TASK
def test_seeds_draw_different_problems_and_equal_seeds_equal_ones(task: Task) -> None:
    first, again, other = some(task, seed=1), some(task, seed=1), some(task, seed=2)
    assert first == again
    assert not {p.prompt for p in first} & {p.prompt for p in other}


def test_no_seed_holds_out_a_prompt_that_another_trains_on() -> None:
    few = Task("few", "three hundred problems", 1, lambda rng: WordProblem(f"problem {rng.randrange(300)}", "", 0))
    held_out = {problem.prompt for seed in range(3) for problem in islice(few.problems(seed, "held-out"), 500)}
    trained = {problem.prompt for seed in range(3) for problem in islice(few.problems(seed, "train"), 2000)}
    assert not held_out & trained
    assert len(held_out | trained) == 300
    assert 20 <= len(held_out) <= 60  # one in eight


def test_word_problems_are_worked_step_by_step() -> None:
    for problem in some(TASKS["word-problems"]):
        *lines, answer = problem.solution.split("\n")
        total = re.search(r"has (\d+)", problem.prompt)
        assert total is not None
        value = total[1]
        for line in lines:
            left, result = line.split(" = ")
            assert left.startswith(value + " ")
            assert eval(left) == int(result)
            value = result
        assert answer == f"#### {value}"
        assert 2 <= len(lines) <= 5


def test_sudokus_have_exactly_one_solution() -> None:
    for problem in some(TASKS["sudoku"], 20):
        grid = [0 if cell == "_" else int(cell) for cell in problem.prompt.split()[1:]]
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
