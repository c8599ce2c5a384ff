"""The tasks, by name: those that the project draws itself, and those whose problems come from a published dataset."""

from unmask.errors import unknown
from unmask.evals.tasks import (
    clock_turns,
    gsm8k,
    humaneval,
    json_objects,
    list_chains,
    list_ops,
    long_word_problems,
    math_problems,
    mbpp,
    python_functions,
    running_totals,
    sudoku,
    treasure_hunt,
    word_problems,
)
from unmask.evals.tasks.base import DrawnTask, Problem, Split, Styled, Task, TaskError, take
from unmask.evals.tasks.dataset import Dataset
from unmask.evals.tasks.programs import grade_all

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        word_problems.TASK,
        sudoku.TASK,
        long_word_problems.TASK,
        list_chains.TASK,
        list_ops.TASK,
        list_ops.SHUFFLE,
        json_objects.TASK,
        python_functions.TASK,
        python_functions.GAP_TASK,
        running_totals.TASK,
        treasure_hunt.TASK,
        treasure_hunt.SHORT_TASK,
        treasure_hunt.COIN_TASK,
        clock_turns.TASK,
    )
}
EMBEDDED = ("word-problems", "sudoku")  # that the embedded model was taught; commands ask these where none is named
TRACES = ("treasure-hunt", "coin-hunt", "running-totals", "short-hunt", "clock-turns")  # whose solutions are traces
DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (gsm8k.DATASET, math_problems.DATASET, humaneval.DATASET, mbpp.DATASET)
}


def find_task(text: str) -> Task:
    """A task as a command line names it: `sudoku`, `gsm8k` (from the Hub), `gsm8k=PATH` (a file or folder).

    `sudoku:template=2` is the task with one wording of its prompts. Nothing is read yet. Raises TaskError for an
    unknown name, template or option, and for a path where a task takes none.
    """
    name, _, path = text.partition("=")
    if name in DATASETS:
        return DATASETS[name].task(path)
    name, colon, option = text.partition(":")
    if name in TASKS and colon:
        return _with_option(TASKS[name], option)
    name, _, path = name.partition("=")
    if name in DATASETS:
        raise TaskError(f"task {name} takes no options; leave out :{option}")
    if name not in TASKS:
        raise TaskError(unknown("task", name, [*TASKS, *DATASETS]))
    if path:
        raise TaskError(f"task {name} draws its problems and reads no file; leave out ={path}")
    return TASKS[name]


def _with_option(task: Task, option: str) -> Task:
    key, _, value = option.partition("=")
    if key != "template" or not isinstance(task, DrawnTask):
        raise TaskError(f"unknown option {option!r} of task {task.name}; write for example {task.name}:template=1")
    return task.of_template(value)


__all__ = [
    "DATASETS",
    "EMBEDDED",
    "TASKS",
    "TRACES",
    "Problem",
    "Split",
    "Styled",
    "Task",
    "TaskError",
    "find_task",
    "grade_all",
    "take",
]
