"""Schedulers by name, from the entry-point group `unmask.schedulers`: the built-ins and everyone's use the same door."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from schedulers.base import Scheduler
from schedulers.options import OptionError, is_numeric, parse_options

GROUP = "unmask.schedulers"


class UnknownSchedulerError(LookupError):
    """No installed package names a scheduler so. The message lists those there are."""


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler chosen for a request: its name and its parsed options. Always valid."""

    name: str
    options: Any

    def numeric(self) -> dict[str, float | int | None]:
        """The options that vary by row."""
        return {name: value for name, value in self._values().items() if is_numeric(type(self.options), name)}

    def fixed(self) -> tuple[tuple[str, object], ...]:
        """The options that an instance of the scheduler is made with."""
        return tuple((name, value) for name, value in self._values().items() if not is_numeric(type(self.options), name))

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}


def scheduler_names() -> list[str]:
    """The names of all installed schedulers, sorted."""
    return sorted(entry_points(group=GROUP).names)


@cache
def scheduler_class(name: str) -> type[Scheduler]:
    """The class that a name stands for. Raises UnknownSchedulerError, or ValueError where two packages claim the name."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise UnknownSchedulerError(f"unknown scheduler {name!r}; the schedulers are: {', '.join(scheduler_names())}")
    if len({entry.value for entry in found}) > 1:
        raise ValueError(f"scheduler {name!r} is claimed by {', '.join(entry.value for entry in found)}; uninstall one")
    loaded: type[Scheduler] = found[0].load()
    return loaded


def parse_scheduler(name: str, options: Mapping[str, object] | None = None) -> SchedulerSpec:
    """A valid SchedulerSpec, or UnknownSchedulerError or OptionError."""
    return SchedulerSpec(name, parse_options(scheduler_class(name).Options, options or {}))


@cache
def make_scheduler(name: str, fixed: tuple[tuple[str, object], ...]) -> Scheduler:
    """The instance for a name and its fixed options; rows that agree in both share it."""
    return scheduler_class(name)(**dict(fixed))


__all__ = ["OptionError", "SchedulerSpec", "UnknownSchedulerError", "make_scheduler", "parse_scheduler", "scheduler_class", "scheduler_names"]
