"""From a settings class to a parser of arguments, its help text, and errors in plain words.

argparse reads the flags, pydantic-settings the environment, and pydantic checks both. pydantic-settings' own parser is
not used: it has no field that is a flag and a positional at once, and its help text shows types of Python.
"""

import argparse
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from unmask.errors import UsageError, closest
from unmask.settings import ENV_PREFIX, CommandSettings, flag_of

Settings = TypeVar("Settings", bound=CommandSettings)

HELP_COLUMN = 28
WIDTH = 79  # of descriptions; argparse fits the rest to the terminal
LONGEST_DEFAULT = 24  # characters; the text of the flag says what longer ones are


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError for what it cannot read, instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def parse_settings(settings: type[Settings], program: str, arguments: Sequence[str]) -> Settings:
    """A command's settings, from its arguments and the environment. `--help` prints and exits.

    Raises UsageError, which names the flag or the variable, the value and what is allowed.
    """
    parser = make_parser(settings, program)
    found, left = parser.parse_known_intermixed_args(list(arguments))
    given = vars(found)
    _refuse(parser, program, left)
    if "POSITIONAL" in given and settings.POSITIONAL:
        if settings.POSITIONAL in given:
            flag = flag_of(settings.POSITIONAL)
            raise UsageError(f"{given['POSITIONAL']!r} and {flag} {given[settings.POSITIONAL]!r} exclude each other")
        given[settings.POSITIONAL] = given.pop("POSITIONAL")
    try:
        return settings(**given)
    except ValidationError as error:
        raise UsageError(_sentence(settings, error, given)) from None


def make_parser(settings: type[CommandSettings], program: str, choices: bool = False) -> Parser:
    """The parser of a command.

    choices  whether flags list their values, which completion wants; pydantic checks them otherwise
    """
    position = settings.POSITIONAL
    fields = settings.model_fields
    shown = "" if position is None else f"{position.upper()} " if fields[position].is_required() else "[MODEL] "
    parser = Parser(
        prog=program,
        usage=f"{program} {shown}[flags]",
        description=_paragraphs(settings.__doc__),
        epilog=_epilog(settings),
        formatter_class=_formatter,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    if position is not None:
        parser.add_argument_group("arguments").add_argument(
            "POSITIONAL",
            nargs="?",
            metavar=position.upper(),
            help=_escaped(fields[position].description),
            choices=(choices and _literals(fields[position].annotation)) or None,
        )
    for title, names in _groups(settings):
        group = parser.add_argument_group(title)
        for name in names:
            _add(group, name, fields[name], choices)
        if title == "other":
            group.add_argument("-h", "--help", action="help", help="show this text and exit")
    return parser


def _groups(settings: type[CommandSettings]) -> Iterator[tuple[str, list[str]]]:
    """Title and fields of the groups of flags; the last one holds what no group names."""
    fields = settings.model_fields
    left = [name for name, field in fields.items() if name != settings.POSITIONAL or not field.is_required()]
    for title, text in settings.GROUPS.items():
        names = text.split()
        left = [name for name in left if name not in names]
        yield title, names
    yield "other", left


def _add(group: "argparse._ArgumentGroup", name: str, field: FieldInfo, choices: bool) -> None:
    dest = field.alias or name
    help, kind = _help(field), field.annotation
    if _members(kind) == (bool,):
        positive, negative = flag_of(dest), "--no-" + flag_of(dest)[2:]
        if field.default is False:  # the other one is there for a variable that says true
            group.add_argument(positive, dest=dest, action="store_true", help=help)
            group.add_argument(negative, dest=dest, action="store_false", help=argparse.SUPPRESS)
        else:
            group.add_argument(positive, dest=dest, action=argparse.BooleanOptionalAction, help=help)
        return
    several = typing.get_origin(kind) is tuple
    listed = list(_literals(kind)) if choices and not several else None
    action = "append" if several else "store"
    group.add_argument(
        flag_of(dest), dest=dest, action=action, metavar=_metavar(dest, kind), help=help, choices=listed or None
    )


def _members(kind: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; of any other type, itself."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return tuple(m for m in typing.get_args(kind) if m is not type(None)) if union else (kind,)


def _literals(kind: Any) -> tuple[str, ...]:
    return tuple(
        value
        for member in _members(kind)
        if typing.get_origin(member) is typing.Literal
        for value in typing.get_args(member)
    )


def _metavar(name: str, kind: Any) -> str:
    """What stands for the value in the help text: N, X, PATH, {auto,cpu}, or the last word of the flag."""
    if typing.get_origin(kind) is tuple:
        return _metavar(name, typing.get_args(kind)[0]) + ",..."
    if literals := _literals(kind):
        return "{" + ",".join([*(["N"] if _plain(_members(kind)[0]) is int else []), *literals]) + "}"
    (member,) = _members(kind)
    plain = _plain(member)
    named = {int: "N", float: "X", Path: "PATH", bool: "{true,false}"}
    return named.get(plain, name.rsplit("_", maxsplit=1)[-1].upper())


def _plain(member: Any) -> Any:
    """The type of a member of a union, without what is annotated."""
    return typing.get_args(member)[0] if typing.get_origin(member) is typing.Annotated else member


def _help(field: FieldInfo) -> str:
    text = _escaped(field.description)
    default = field.default
    if field.is_required() or default is None or isinstance(default, bool) or default in ((), ""):
        return text
    shown = ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in _tuple(default))
    return text if len(shown) > LONGEST_DEFAULT else f"{text} (default: {shown})"


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _escaped(text: str | None) -> str:
    return (text or "").replace("%", "%%")


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(textwrap.fill(part, WIDTH) for part in inspect.cleandoc(text or "").split("\n\n"))


def _epilog(settings: type[CommandSettings]) -> str:
    lines = ["examples:", *(f"  {line}" for line in settings.EXAMPLES), ""] if settings.EXAMPLES else []
    if settings.model_fields:
        name = next(reversed([*settings.model_fields]))
        variable = f"{ENV_PREFIX}{(settings.model_fields[name].alias or name).upper()}"
        lines.append(f"Each flag is also an environment variable:\n{flag_of(name)} is {variable}.")
    return "\n".join(lines)


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=HELP_COLUMN)


def _refuse(parser: Parser, program: str, left: Sequence[str]) -> None:
    """Raise UsageError for arguments that no flag and no positional takes."""
    unknown = next((word for word in left if word.startswith("-")), None)
    if unknown is not None:
        word = unknown.partition("=")[0]
        near = closest(word, [flag for flag in parser._option_string_actions if flag.startswith("--")])
        hint = f"did you mean {near}?" if near else f"{program} --help lists the flags"
        raise UsageError(f"unknown flag {word}; {hint}")
    if left:
        raise UsageError(f"unexpected argument {left[0]!r}; put a text with spaces in quotes")


def _sentence(settings: type[CommandSettings], error: ValidationError, given: dict[str, object]) -> str:
    """The first thing that is wrong, in plain words."""
    errors = error.errors()
    first = errors[0]
    if not first["loc"]:
        return str(first["ctx"]["error"] if "ctx" in first else first["msg"])
    name = str(first["loc"][0])
    flag = flag_of(name) if name in given else f"{ENV_PREFIX}{name.upper()}"
    if name == settings.POSITIONAL and settings.model_fields[name].is_required():
        flag = name.upper()
    if first["type"] == "missing":
        return f"{flag} is missing"
    if first["type"] == "value_error":
        return f"{flag}: {first['ctx']['error']}"
    allowed = [_allowed(e) for e in errors if e["loc"][0] == name and e["input"] == first["input"]]
    return f"{flag} must be {' or '.join(dict.fromkeys(allowed))}, not {first['input']!r}"


def _allowed(error: Any) -> str:
    """What a value may be, from what pydantic says of one that it may not be."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "greater_than": "above {gt:g}",
        "greater_than_equal": "at least {ge:g}",
        "less_than": "below {lt:g}",
        "less_than_equal": "at most {le:g}",
        "literal_error": "{expected}",
        "too_short": "at least one value",
        "string_pattern_mismatch": "one with a number, as cuda:1",  # only devices have a pattern
    }
    kind = error["type"]
    form = words.get(kind) or words.get(kind.split("_")[0]) or "valid"
    return form.format(**error.get("ctx", {})).replace("'", "")
