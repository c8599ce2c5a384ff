"""The curves of a sweep, measured one cell after another and kept in a file."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unmask.engine.caching import Cache
from unmask.engine.input_state import MASK, InputState
from unmask.errors import UserError
from unmask.evals.measure import Cell, Measurement, measure
from unmask.evals.tasks import Task
from unmask.models.loading import Model
from unmask.schedulers import SchedulerSpec
from unmask.settings import BlockLength

FULL: Literal["full"] = "full"


class SweepError(UserError, ValueError):
    """A sweep or a file of points that cannot be used. The message says where, what, and what to do."""


@dataclass(frozen=True)
class Curve:
    """Settings of schedulers that belong together, in the order in which a line joins them."""

    label: str
    schedulers: Sequence[SchedulerSpec]


@dataclass(frozen=True)
class Sweep:
    """Every curve on every task at every block length; `full` is one block for the whole answer.

    max_tokens  length of the generation region; by default what the answers of a task need
    """

    tasks: Sequence[Task]
    block_lengths: Sequence[BlockLength]
    problems: int
    seed: int
    curves: Sequence[Curve]
    max_tokens: int | None = None

    def cells(
        self, caches: Sequence[Cache], raw: bool = False, input_states: Sequence[InputState] = (MASK,)
    ) -> list[tuple[str, Cell]]:
        """(label of the curve, cell), panel by panel. With several caches, or input states, each has its own."""
        found = []
        panels = product(self.tasks, self.block_lengths, caches, self.curves, input_states)
        for task, length, cache, curve, input_state in panels:
            words = [curve.label, *[str(cache)] * (len(caches) > 1), *[str(input_state)] * (len(input_states) > 1)]
            for scheduler in curve.schedulers:
                tokens = self._tokens(length, task)
                cell = Cell(task, scheduler, tokens, self.problems, self.seed, self.max_tokens, cache, raw, input_state)
                found.append((", ".join(words), cell))
        return found

    def _tokens(self, length: BlockLength, task: Task) -> int:
        return self.max_tokens or task.max_tokens if length == FULL else int(length)


@dataclass(frozen=True)
class Point:
    """A measurement and the label of its curve: one line of a JSON file."""

    curve: str
    measurement: Measurement

    def line(self) -> str:
        return json.dumps({"curve": self.curve, **asdict(self.measurement)}, allow_nan=False) + "\n"


def read_points(file: Path) -> list[Point]:
    """The points of a JSON file; none if there is no such file. Raises SweepError."""
    points = []
    for number, line in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
        try:
            fields = json.loads(line)
            points.append(Point(fields.pop("curve"), Measurement(**fields)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            message = f"line {number} of {file} is no point of a sweep; delete the file or give --json another"
            raise SweepError(message) from None
    return points


def write_points(file: Path, points: Iterable[Point]) -> None:
    """Write all points at once: an interruption leaves the file as it was."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(point.line() for point in points))
    os.replace(partial, file)


def run_cells(
    model: Model,
    cells: Sequence[tuple[str, Cell]],
    file: Path | None = None,
    known: Sequence[Point] = (),
    **how: Any,
) -> list[Point]:
    """Measure each cell that is not among the `known` points, in turn, with a progress bar.

    After each, `file` holds all points so far, then the known ones of other sweeps. `how` is for `measure`.
    """
    points: list[Point] = []
    others = list(known)
    for point in _points(model, cells, known, how):
        points.append(point)
        others = [other for other in others if other.measurement != point.measurement]
        if file:
            write_points(file, [*points, *others])
    return points


def _points(
    model: Model, cells: Sequence[tuple[str, Cell]], known: Sequence[Point], how: dict[str, Any]
) -> Iterator[Point]:
    with _progress() as progress:
        bar = progress.add_task("", total=sum(cell.problems for _, cell in cells))
        for curve, cell in cells:
            progress.update(bar, description=f"{cell.task.name} {curve}")
            found = _find(known, cell.identity(model))
            if found is None:
                found = measure(model, cell, on_answer=lambda: progress.advance(bar), **how)
            else:
                progress.advance(bar, cell.problems)
            yield Point(curve, found)


def _find(known: Sequence[Point], wanted: dict[str, Any]) -> Measurement | None:
    """The measurement that has these fields."""
    for point in known:
        if all(getattr(point.measurement, name) == value for name, value in wanted.items()):
            return point.measurement
    return None


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
