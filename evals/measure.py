"""Accuracy and cost of one scheduler on one task: problems asked through the engine, graded by the task."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.caching import NO_CACHE, Cache
from engine.engine import MEMORY_FRACTION, Engine
from engine.request import Request, fit_block_length
from evals.prompts import prompt_ids
from evals.tasks import Task
from models.loading import Model
from schedulers import SchedulerSpec, parse_scheduler


@dataclass(frozen=True)
class Measurement:
    """One cell of a report.

    forward_passes     mean per problem
    tokens_per_second  tokens before the end of text, all rows together, by wall-clock time
    """

    task: str
    scheduler: str
    options: dict[str, Any]
    block_length: int
    cache: str
    problems: int
    seed: int
    accuracy: float
    forward_passes: float
    tokens_per_second: float


def measure(
    model: Model,
    task: Task,
    scheduler: SchedulerSpec,
    block_length: int,
    problems: int,
    seed: int,
    *,
    cache: Cache = NO_CACHE,
    rows: int = 64,
    memory_fraction: float = MEMORY_FRACTION,
    raw: bool = False,
    on_answer: Callable[[], None] = lambda: None,
) -> Measurement:
    """Ask `problems` held-out problems, `rows` at a time; `on_answer` is called after each answer."""
    asked = list(islice(task.problems(seed, "held-out"), problems))
    length = fit_block_length(block_length, task.max_tokens, model.network.architecture)
    requests = [
        Request(
            str(i),
            prompt_ids(model, problem, raw),
            task.max_tokens,
            length,
            scheduler,
            seed=i,
            cache=cache,
        )
        for i, problem in enumerate(asked)
    ]
    started = time.perf_counter()
    correct = passes = tokens = 0
    for step in Engine(model, max_rows=rows, memory_fraction=memory_fraction).run(requests):
        if step.result is not None:
            correct += asked[int(step.request_id)].grade(step.result.text)
            passes += step.result.forward_passes
            tokens += len(step.result.token_ids)
            on_answer()
    return Measurement(
        task=task.name,
        scheduler=scheduler.name,
        options=scheduler.values(),
        block_length=length,
        cache=str(cache),
        problems=problems,
        seed=seed,
        accuracy=correct / problems,
        forward_passes=passes / problems,
        tokens_per_second=tokens / (time.perf_counter() - started),
    )


def label(result: Measurement) -> str:
    """A scheduler with the options that differ from its defaults, as a command line names it."""
    defaults = parse_scheduler(result.scheduler).values()
    changed = [f"{name}={value}" for name, value in result.options.items() if value != defaults[name]]
    return ":".join([result.scheduler, *changed])
