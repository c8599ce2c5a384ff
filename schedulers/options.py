"""Typed scheduler options: declared as a dataclass, parsed from JSON values, described as a JSON schema."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from reprlib import repr as show
from typing import Any, TypeGuard, TypeVar

from unmask.errors import UserError, unknown

T = TypeVar("T")

LARGEST = 2**31  # options travel in tensors, and schedulers multiply them by lengths


class OptionError(UserError, ValueError):
    """An option that a scheduler does not have, or a value that is not allowed. `option` is its name."""

    def __init__(self, option: str, message: str):
        super().__init__(message)
        self.option = option


def option(
    default: Any,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
    fast: float | None = None,
) -> Any:
    """Declare one option of a scheduler's `Options` dataclass. Bounds are inclusive; `choices` are of a text.

    fast  makes a number the dial of the scheduler: its value where that is as fast as is sensible
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "fast": fast}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Dial:
    """The numeric option that makes a scheduler faster or more careful.

    default  where it is careful
    fast     where it is as fast as is sensible
    whole    whether it is an integer
    """

    name: str
    default: float
    fast: float
    whole: bool

    def faster(self, value: float) -> float:
        """The fast end for one who starts at `value`: that itself, if it is beyond."""
        return self.fast if (self.fast - value) * (self.fast - self.default) > 0 else value


@cache
def dial_of(options: type[Any]) -> Dial | None:
    """The dial of an `Options` dataclass, if it has one.

    Raises ValueError if two options claim to be it, or one that need not be a number.
    """
    fields = [field for field in dataclasses.fields(options) if field.metadata.get("fast") is not None]
    if not fields:
        return None
    field, hints = fields[0], typing.get_type_hints(options)
    if len(fields) > 1 or hints[field.name] not in (int, float):
        names = ", ".join(field.name for field in fields)
        raise ValueError(f"{options.__name__}: one option, an int or a float, may be declared with fast, not {names}")
    default: Any = field.default
    return Dial(field.name, default, field.metadata["fast"], hints[field.name] is int)


def parse_options(options: type[T], values: Mapping[str, object]) -> T:
    """Build `options` from plain values, or raise OptionError naming the option, the value and what is allowed."""
    declared = {f.name: f for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(options)
    for name in values:
        if name not in declared:
            raise OptionError(name, unknown("option", name, declared))
    parsed = {name: _parse(declared[name], hints[name], value) for name, value in values.items()}
    try:
        return options(**parsed)
    except OptionError:
        raise
    except ValueError as error:  # a dataclass may check its fields against each other
        raise OptionError(next(iter(values), ""), str(error)) from None


def json_schema(options: type[Any]) -> dict[str, Any]:
    """The JSON schema of an `Options` dataclass, as `GET /v1/schedulers` shows it."""
    hints = typing.get_type_hints(options)
    properties = {}
    for field in dataclasses.fields(options):
        kind, nullable = _kind(hints[field.name])
        name = _JSON_TYPES[kind]
        schema = {"type": [name, "null"] if nullable else name, "default": field.default}
        schema |= {
            key: field.metadata[key] for key in ("minimum", "maximum", "fast") if field.metadata.get(key) is not None
        }
        if field.metadata.get("choices") is not None:
            schema["enum"] = list(field.metadata["choices"])
        properties[field.name] = schema | {"description": field.metadata.get("help", "")}
    return {"type": "object", "properties": properties, "additionalProperties": False}


@cache
def numeric_kinds(options: type[Any]) -> dict[str, type[int] | type[float]]:
    """The declared types of the options that can vary by row inside one batch, as entries of `View.options`."""
    hints = typing.get_type_hints(options)
    kinds = {field.name: _kind(hints[field.name])[0] for field in dataclasses.fields(options)}
    return {name: kind for name, kind in kinds.items() if kind in (int, float)}


def number(value: float | None, kind: type[int] | type[float]) -> float | int:
    """An option's value as a number of its declared type; None becomes NaN for a float and -1 for an integer."""
    return kind(value) if value is not None else math.nan if kind is float else -1


_JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def _kind(hint: Any) -> tuple[type, bool]:
    """(type, whether None is allowed) of an annotation `int`, `float | None`, ..."""
    if isinstance(hint, types.UnionType):
        (kind,) = (member for member in hint.__args__ if member is not type(None))
        return kind, True
    return hint, False


def _parse(field: "dataclasses.Field[Any]", hint: Any, value: object) -> object:
    kind, nullable = _kind(hint)
    if value is None and nullable:
        return None
    minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
    choices = field.metadata.get("choices")
    if choices is not None and value not in choices:
        raise OptionError(field.name, f"option {field.name!r} must be one of {', '.join(choices)}, not {show(value)}")
    if kind in (int, float):
        allowed = _is_number(value, field.name, whole=kind is int) and _within(value, minimum, maximum)
    else:
        allowed = isinstance(value, kind)
    if not allowed:
        described = _describe(kind, nullable, minimum, maximum)
        raise OptionError(field.name, f"option {field.name!r} must be {described}, not {show(value)}")
    return kind(value)


def _is_number(value: object, name: str, whole: bool) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not abs(value) < LARGEST:  # also refuses NaN
        raise OptionError(name, f"option {name!r} must be below {LARGEST} in size, not {show(value)}")
    return not whole or value == int(value)


def _within(value: float, minimum: float | None, maximum: float | None) -> bool:
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _describe(kind: type, nullable: bool, minimum: float | None, maximum: float | None) -> str:
    text = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}[kind]
    if minimum is not None and maximum is not None:
        text += f" from {minimum:g} to {maximum:g}"
    elif minimum is not None:
        text += f" of at least {minimum:g}"
    elif maximum is not None:
        text += f" of at most {maximum:g}"
    return text + (" or null" if nullable else "")
