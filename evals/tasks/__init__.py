"""The tasks, by name."""

from evals.tasks import sudoku, word_problems
from evals.tasks.base import Problem, Split, Task

TASKS: dict[str, Task] = {task.name: task for task in (word_problems.TASK, sudoku.TASK)}

__all__ = ["TASKS", "Problem", "Split", "Task"]
