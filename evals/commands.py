"""The commands `unmask eval` and `unmask train-model`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from engine.caching import NO_CACHE, Cache, choose_cache
from engine.settings import CommandSettings, ModelSettings
from evals.measure import Measurement, label, measure
from evals.tasks import TASKS, Task
from models.loading import Model, load_model
from schedulers import SchedulerSpec, parse_scheduler_text, scheduler_names

FULL: Literal["full"] = "full"
Cell = tuple[Task, SchedulerSpec, int | Literal["full"], Cache]


class EvalSettings(ModelSettings):
    """Measure schedulers on held-out problems. Lists are given by commas or by repeating the flag."""

    task: list[str] = Field(default_factory=lambda: list(TASKS), description=f"tasks: {', '.join(TASKS)}; default all")
    scheduler: list[str] = Field(
        default_factory=scheduler_names, description="schedulers, with options as name:option=value; default all"
    )
    block_length: list[int | Literal["full"]] = Field([32], description="block lengths; full is one block")
    cache: list[str] = Field(["auto"], description="caches: none, prefix, dual, dual:refresh=8, block, or auto")
    problems: int = Field(500, ge=1, description="held-out problems a cell")
    seed: int = Field(0, description="draws the problems; another seed draws others")
    rows: int = Field(64, ge=1, description="problems that run side by side")
    raw: bool = Field(False, description="ask without the chat template")
    json_file: Path | None = Field(
        None, alias="json", description="also write the results there, one JSON object a line"
    )


class TrainModelSettings(CommandSettings):
    """Train the embedded model from nothing, or go on where an interrupted run stopped."""

    out: Path = Field(Path("runs/llada-nano"), description="folder of the checkpoint, the log and the training state")
    steps: int = Field(3200, ge=1, description="optimizer steps, each over one batch of every task")
    batch_size: int = Field(64, ge=1, description="problems a batch")
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate")
    seed: int = Field(0, description="of weights, problems and masks")
    save_every: int = Field(100, ge=1, description="steps between savings")
    compile: bool = Field(True, description="compile the network with torch.compile; faster, needs a C++ compiler")
    problems: int = Field(500, ge=0, description="held-out problems a cell of the final card; 0 writes no card")


def evaluate(settings: EvalSettings) -> None:
    """Measure every combination, show a table, and write JSON if asked."""
    for name in settings.task:
        if name not in TASKS:
            raise SystemExit(f"unmask eval: unknown task {name!r}; the tasks are: {', '.join(TASKS)}")
    specs = [parse_scheduler_text(text) for text in settings.scheduler]
    model = load_model(settings.model, settings.revision, settings.device, settings.dtype, settings.compile)
    caches = [choose_cache(text, model.network.architecture) for text in settings.cache]
    cells = list(product([TASKS[name] for name in settings.task], specs, settings.block_length, caches))
    results = []
    how = {"rows": settings.rows, "raw": settings.raw, "memory_fraction": settings.memory_fraction}
    for result in _measure(model, cells, settings.problems, settings.seed, **how):
        results.append(result)
        if settings.json_file:  # after each, so that an interrupted run keeps what it has
            settings.json_file.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
    Console().print(_table(results))


def train_model(settings: TrainModelSettings) -> None:
    """Run or resume the recipe, then write the card with the measured table."""
    from evals.recipe.card import SCHEDULERS, training_cost, write_card
    from evals.recipe.train import Recipe, Trainer

    settings.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(settings.steps, settings.batch_size, settings.learning_rate, seed=settings.seed)
    Trainer(recipe, settings.out, settings.compile).run(settings.save_every)
    if settings.problems:
        model = load_model(str(settings.out))
        cells: list[Cell] = list(product(TASKS.values(), map(parse_scheduler_text, SCHEDULERS), (32, FULL), [NO_CACHE]))
        results = list(_measure(model, cells, settings.problems, seed=0))
        how = f"Measured on {settings.problems} held-out problems a cell, in {model.dtype} on {model.device}."
        write_card(settings.out, recipe, results, training_cost(settings.out), how)


def _measure(model: Model, cells: Sequence[Cell], problems: int, seed: int, **how: Any) -> Iterator[Measurement]:
    """Measure each cell in turn, with a progress bar; `how` is for `measure`."""
    with _progress() as progress:
        bar = progress.add_task("", total=len(cells) * problems)
        for task, spec, block_length, cache in cells:
            progress.update(bar, description=f"{task.name} {spec.name}")
            length = task.max_tokens if block_length == FULL else int(block_length)
            yield measure(
                model,
                task,
                spec,
                length,
                problems,
                seed,
                cache=cache,
                on_answer=lambda: progress.advance(bar),
                **how,
            )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


def _table(results: list[Measurement]) -> Table:
    table = Table("task", Column("scheduler", overflow="fold"), "block", "cache", "accuracy", "passes", "tokens/s")
    for r in results:
        cells = (f"{r.accuracy:.1%}", f"{r.forward_passes:.1f}", f"{r.tokens_per_second:.0f}")
        table.add_row(r.task, label(r), str(r.block_length), r.cache, *cells)
    return table
