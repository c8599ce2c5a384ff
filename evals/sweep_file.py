"""A sweep from a TOML file, or from one of those that are shipped, by name. `sweeps/heuristics.toml` shows the form."""

import tomllib
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unmask.evals.sweep import Curve, Sweep, SweepError
from unmask.evals.tasks import TaskError, find_task
from unmask.schedulers import OptionError, SchedulerSpec, UnknownSchedulerError, parse_scheduler
from unmask.settings import BlockLength

SHIPPED = Path(__file__).parent / "sweeps"


class _CurveTable(BaseModel):
    """One curve: a scheduler, and for each option its value or the values to go through, the last option fastest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: str
    label: str | None = None
    options: dict[str, Any] = {}

    def schedulers(self) -> list[SchedulerSpec]:
        for name, value in self.options.items():
            if value == []:
                raise OptionError(name, f"option {name!r} of scheduler {self.scheduler!r} has no values; give some")
        ranges = [value if isinstance(value, list) else [value] for value in self.options.values()]
        return [parse_scheduler(self.scheduler, dict(zip(self.options, row, strict=True))) for row in product(*ranges)]


class _SweepTable(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: list[str] = Field(min_length=1)
    block_lengths: list[BlockLength] = Field(min_length=1)
    problems: int = Field(ge=2)
    seed: int = 0
    max_tokens: int | None = Field(None, ge=1)
    curves: list[_CurveTable] = Field(min_length=1)


def read_sweep(name: str) -> Sweep:
    """The sweep in a file, or the shipped one of that name. Raises SweepError."""
    file = _locate(name)
    try:
        table = _SweepTable.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
        curves = [Curve(curve.label or curve.scheduler, curve.schedulers()) for curve in table.curves]
        tasks = [find_task(task) for task in table.tasks]
    except (tomllib.TOMLDecodeError, OptionError, TaskError, UnknownSchedulerError) as error:
        raise SweepError(f"sweep {file}: {error.args[0]}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError(f"sweep {file} cannot be read as TOML in UTF-8: {error}") from None
    except ValidationError as error:
        raise SweepError(f"sweep {file}: {_sentence(error)}") from None
    return Sweep(tasks, table.block_lengths, table.problems, table.seed, curves, table.max_tokens)


def _locate(name: str) -> Path:
    shipped = {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    raise SweepError(f"sweep {name!r} is no file and no shipped sweep; the shipped ones are: {', '.join(shipped)}")


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    # Of a value that may be of several types, pydantic names the type too.
    where = ".".join(str(part) for part in first["loc"] if str(part).replace("_", "").isalnum())
    return f"{where}: {first['msg']}, not {first['input']!r}"
