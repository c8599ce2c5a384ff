"""The base of all errors that a user can mend, and how they name what was mistyped. Imports no other part."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class UserError(Exception):
    """Something that the user can mend. The message is one sentence: what is wrong, and the remedy.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code: ClassVar[int] = 1


class UsageError(UserError):
    """An argument or a variable of a command is wrong."""

    exit_code: ClassVar[int] = 2


def closest(word: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """The name that a mistyped word most probably stands for; None if none is as like it, from 0 to 1."""
    return next(iter(get_close_matches(word.lower(), list(names), n=1, cutoff=likeness)), None)


def unknown(kind: str, word: str, names: Iterable[str]) -> str:
    """The message for a name that does not exist: it lists those that do, and the closest of them first."""
    listed = list(names)
    near = closest(word, listed)
    those = f"he {kind}s are: {', '.join(listed) or 'none'}"
    return f"unknown {kind} {word!r}; " + (f"did you mean {near!r}? T{those}" if near else f"t{those}")
