"""The tasks, by name: those that the project draws itself, and those whose problems come from a published dataset."""

from unmask.errors import unknown
from unmask.evals.tasks import gsm8k, humaneval, math_problems, mbpp, sudoku, word_problems
from unmask.evals.tasks.base import Problem, Split, Task, TaskError, take
from unmask.evals.tasks.dataset import Dataset

TASKS: dict[str, Task] = {task.name: task for task in (word_problems.TASK, sudoku.TASK)}
DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (gsm8k.DATASET, math_problems.DATASET, humaneval.DATASET, mbpp.DATASET)
}


def find_task(text: str) -> Task:
    """A task as a command line names it: `sudoku`, `gsm8k` (from the Hub), `gsm8k=PATH` (a file or folder).

    Nothing is read yet. Raises TaskError for an unknown name, and for a path where a task takes none.
    """
    name, _, path = text.partition("=")
    if name in DATASETS:
        return DATASETS[name].task(path)
    if name not in TASKS:
        raise TaskError(unknown("task", name, [*TASKS, *DATASETS]))
    if path:
        raise TaskError(f"task {name} draws its problems and reads no file; leave out ={path}")
    return TASKS[name]


__all__ = ["DATASETS", "TASKS", "Problem", "Split", "Task", "TaskError", "find_task", "take"]
