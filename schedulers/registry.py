"""Schedulers by name, from the entry-point group `unmask.schedulers`: the same for built-in and other packages."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from typing import Any

from unmask.errors import UserError, unknown
from unmask.schedulers.base import Needs, Scheduler
from unmask.schedulers.options import Dial, OptionError, dial_of, number, numeric_kinds, parse_options

GROUP = "unmask.schedulers"


class UnknownSchedulerError(UserError, LookupError):
    """No installed package has a scheduler of this name. The message lists all that are installed."""


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler chosen for a request: its name and its parsed options. Always valid. What follows from the options is
    computed once.

    instance  the scheduler itself, if it was not made from name and options, as in training
    """

    name: str
    options: Any
    instance: Scheduler | None = None

    def scheduler(self) -> Scheduler:
        """The scheduler; rows that agree in name and fixed options share it."""
        return make_scheduler(self.name, self.fixed) if self.instance is None else self.instance

    def needs(self) -> Needs:
        """What the scheduler needs. Read once per instance, since a plug-in may compute it differently each time."""
        return read_needs(self.name, self.fixed) if self.instance is None else self.instance.needs

    @cached_property
    def values(self) -> dict[str, Any]:
        """All options as plain values."""
        return {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}

    @cached_property
    def numeric(self) -> dict[str, float | int]:
        """The options that vary by row, each of its declared type in every row: None is NaN, or -1 of an integer."""
        kinds = numeric_kinds(self.options.__class__)
        return {name: number(self.values[name], kind) for name, kind in kinds.items()}

    @property
    def dial(self) -> Dial | None:
        """The option that makes it faster or more careful, if it has one."""
        return dial_of(self.options.__class__)

    @cached_property
    def fixed(self) -> tuple[tuple[str, object], ...]:
        """The options that an instance of the scheduler is made with."""
        return tuple((name, value) for name, value in self.values.items() if name not in self.numeric)

    def as_json(self) -> dict[str, Any]:
        """The scheduler as answers show it, which is also how requests may name it."""
        return {"name": self.name, **self.values}


def scheduler_names() -> list[str]:
    """The names of all installed schedulers, sorted."""
    return list(installed_names())


@cache  # it scans all that is installed
def installed_names() -> tuple[str, ...]:
    """The same, looked up once."""
    return tuple(sorted(entry_points(group=GROUP).names))


@cache
def scheduler_class(name: str) -> type[Scheduler]:
    """The class that a name stands for. Raises UnknownSchedulerError, or ValueError if two packages claim the name."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise UnknownSchedulerError(unknown("scheduler", name, scheduler_names()))
    if len({entry.value for entry in found}) > 1:
        raise ValueError(f"scheduler {name!r} is claimed by {', '.join(entry.value for entry in found)}; uninstall one")
    loaded: type[Scheduler] = found[0].load()
    return loaded


def names_with_dial() -> tuple[str, ...]:
    """The installed schedulers that have an option for their speed; one that cannot be loaded is left out."""
    return tuple(name for name in installed_names() if _has_dial(name))


def _has_dial(name: str) -> bool:
    try:
        options: Any = scheduler_class(name).Options
        return dial_of(options) is not None
    except (Exception, SystemExit):  # it may be anybody's code
        return False


def parse_scheduler(name: str, options: Mapping[str, object] | None = None) -> SchedulerSpec:
    """A valid SchedulerSpec, or UnknownSchedulerError or OptionError."""
    return SchedulerSpec(name, parse_options(scheduler_class(name).Options, options or {}))


@dataclass(frozen=True)
class NoOptions:
    """The options of a scheduler that declares none."""


def parse_instance(instance: Scheduler, options: Mapping[str, object] | None = None) -> SchedulerSpec:
    """The SchedulerSpec of a scheduler object that is not a plug-in, named after its class. Raises OptionError.

    Of its `Options`, which it may lack, the numeric ones can differ between requests; the others are what the instance
    was made with.
    """
    kind = type(instance)
    return SchedulerSpec(kind.__name__, parse_options(getattr(kind, "Options", NoOptions), options or {}), instance)


def parse_scheduler_text(text: str) -> SchedulerSpec:
    """The same from one word of a command line: `topk`, `topk:n=4`, `name:option=value:option=value`."""
    return parse_scheduler(*split_text(text))


def split_text(text: str) -> tuple[str, dict[str, object]]:
    """(name, options) of `name:option=value:option=value`. Raises OptionError."""
    name, *settings = text.split(":")
    options: dict[str, object] = {}
    for setting in settings:
        option, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(
                option, f"{setting!r} in {text!r} is not option=value; write for example threshold:threshold=0.8"
            )
        options[option] = _value(value)
    return name, options


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@cache
def make_scheduler(name: str, fixed: tuple[tuple[str, object], ...]) -> Scheduler:
    """The instance for a name and its fixed options; rows that agree in both share it."""
    return scheduler_class(name)(**dict(fixed))


@cache
def read_needs(name: str, fixed: tuple[tuple[str, object], ...]) -> Needs:
    """The `needs` of the instance for a name and its fixed options. Raises TypeError if they are none."""
    needs: object = make_scheduler(name, fixed).needs
    if not isinstance(needs, Needs):
        raise TypeError(f"scheduler {name!r} has needs of the type {type(needs).__name__}; make them by Needs(...)")
    return needs
