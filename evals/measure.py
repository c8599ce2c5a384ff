"""Accuracy and cost of one scheduler on one task: problems asked through the engine, graded by the task."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from unmask.defaults import MEMORY_FRACTION
from unmask.engine.ar_ness import global_ar_ness, local_ar_ness, reveal_order
from unmask.engine.caching import NO_CACHE, Cache
from unmask.engine.engine import Engine
from unmask.engine.request import Request, Result, fit_block_length
from unmask.evals.intervals import normal, wilson
from unmask.evals.prompts import prompt_ids
from unmask.evals.tasks import Problem, Styled, Task, grade_all, take
from unmask.models.loading import Model
from unmask.schedulers import SchedulerSpec, parse_scheduler


@dataclass(frozen=True)
class Measurement:
    """One cell of a report, one point of a curve. `_low` and `_high` bound 95 % intervals.

    dtype              of the weights, and how they are quantised
    accuracy           share of the problems that were solved; Wilson's interval
    forward_passes     mean per problem; normal interval from the sample standard deviation
    tokens_per_second  tokens before the end of text, all rows together, by wall-clock time
    local_ar           mean over the answers of `local_ar_ness` with k = 1, see `engine/ar_ness.py`
    global_ar          the same of `global_ar_ness`
    answer_tokens      mean number of tokens before the end of text
    styles             of a task whose answers have styles: each style's share of the answers, and its accuracy
    """

    model: str
    dtype: str
    task: str
    scheduler: str
    options: dict[str, Any]
    block_length: int
    max_tokens: int
    cache: str
    problems: int
    seed: int
    raw: bool
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    forward_passes: float
    passes_low: float
    passes_high: float
    tokens_per_second: float
    local_ar: float
    global_ar: float
    answer_tokens: float | None = None  # of results that are older than the field
    styles: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """What to measure.

    problems    how many held-out problems, drawn with `seed`
    max_tokens  length of the generation region; by default the length that the task's answers need
    raw         leave the chat template out
    """

    task: Task
    scheduler: SchedulerSpec
    block_length: int
    problems: int
    seed: int = 0
    max_tokens: int | None = None
    cache: Cache = NO_CACHE
    raw: bool = False

    def identity(self, model: Model) -> dict[str, Any]:
        """The fields of a Measurement that say what is measured: where they are equal, so are the others, except for
        the speed."""
        length = self.max_tokens or self.task.max_tokens
        return {
            "model": model.name,
            "dtype": model.precision,
            "task": self.task.name,
            "scheduler": self.scheduler.name,
            "options": self.scheduler.values,
            "block_length": fit_block_length(self.block_length, length, model.network.architecture),
            "max_tokens": length,
            "cache": str(self.cache),
            "problems": self.problems,
            "seed": self.seed,
            "raw": self.raw,
        }


def measure(
    model: Model,
    cell: Cell,
    *,
    rows: int = 64,
    memory_fraction: float = MEMORY_FRACTION,
    batch_invariant: bool = False,
    on_answer: Callable[[], None] = lambda: None,
) -> Measurement:
    """Ask the problems, `rows` at a time; `on_answer` is called after each answer."""
    what = cell.identity(model)
    problems = take(cell.task, cell.problems, cell.seed)
    requests = [
        Request(
            str(i),
            prompt_ids(model, problem, cell.raw),
            what["max_tokens"],
            what["block_length"],
            cell.scheduler,
            seed=i,
            cache=cell.cache,
        )
        for i, problem in enumerate(problems)
    ]
    engine = Engine(model, rows, memory_fraction, batch_invariant=batch_invariant)
    results: dict[str, Result] = {}
    started = time.perf_counter()
    for step in engine.run(requests):
        if step.result is not None:
            results[step.request_id] = step.result
            on_answer()
    seconds = time.perf_counter() - started
    return Measurement(**what, **_figures(problems, [results[request.id] for request in requests], seconds))


def label(result: Measurement) -> str:
    """A scheduler with the options that differ from its defaults, as a command line names it."""
    defaults = parse_scheduler(result.scheduler).values
    changed = [f"{name}={value}" for name, value in result.options.items() if value != defaults[name]]
    return ":".join([result.scheduler, *changed])


def _figures(asked: Sequence[Problem], results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """The fields of a Measurement that are measured."""
    orders = [reveal_order(result) for result in results]
    right = grade_all(asked, [result.text for result in results])
    correct, tokens = sum(right), sum(len(result.token_ids) for result in results)
    passes = [result.forward_passes for result in results]
    accuracy_low, accuracy_high = wilson(correct, len(asked))
    passes_low, passes_high = normal(passes)
    return {
        "accuracy": correct / len(asked),
        "accuracy_low": accuracy_low,
        "accuracy_high": accuracy_high,
        "forward_passes": mean(passes),
        "passes_low": passes_low,
        "passes_high": passes_high,
        "tokens_per_second": tokens / seconds,
        "local_ar": mean(map(local_ar_ness, orders)),
        "global_ar": mean(map(global_ar_ness, orders)),
        "answer_tokens": tokens / len(results),
        "styles": _styles(asked, results, right),
    }


def _styles(asked: Sequence[Problem], results: Sequence[Result], right: Sequence[bool]) -> dict[str, list[float]]:
    by_style: dict[str, list[bool]] = {}
    for problem, result, one in zip(asked, results, right, strict=True):
        if isinstance(problem, Styled):
            by_style.setdefault(problem.style(result.text), []).append(one)
    return {style: [len(ones) / len(asked), mean(ones)] for style, ones in sorted(by_style.items())}
