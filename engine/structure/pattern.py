"""Regular expressions of a schema's strings, as those of the same strings in JSON.

Inside of a JSON string, quotes and backslashes are escaped and control characters are not allowed. What this cannot
translate is refused.
"""

import re
from collections.abc import Iterator

from unmask.engine.structure.request import StructureError

CHARACTER = r'[^"\\\x00-\x1f\x7f]'
MAX_PATTERN = 4096
# Sets that mean the same in all dialects; of the negated ones, only what is ASCII.
SETS = {"d": "0-9", "w": "A-Za-z0-9_", "s": " "}
NEGATED = {"D": r"[ -~&&[^0-9]]", "W": r"[ -~&&[^A-Za-z0-9_]]", "S": "[!-~]"}
_SPECIAL = set(r".^$*+?{}[]()|\&~-#/")
_NAMED = {"n": "\\\\n", "t": "\\\\t", "r": "\\\\r", "f": "\\\\f"}  # as JSON writes them
_TOKEN = re.compile(
    r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<group>\((?:\?:|(?!\?)))|(?P<bad>\(\?.?|(?:[*+?]|\{\d+(?:,\d*)?\})\+|\{,\d*\})"
    r"|(?P<times>[*+?]\??|\{\d+(?:,\d*)?\}\??)"
    r"|(?P<escape>\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.))|(?P<anchor>[\^$])|(?P<plain>[|)])|(?P<character>.)",
    re.DOTALL,
)


def escaped(text: str) -> str:
    """A regular expression for one text."""
    return "".join(f"\\x{{{ord(character):x}}}" if character in _SPECIAL else character for character in text)


def pattern_regex(pattern: str) -> str:
    """The regular expression of the strings that hold a match of a pattern, between their quotes in JSON.

    Raises StructureError.
    """
    if len(pattern) > MAX_PATTERN:
        raise StructureError(f"must have at most {MAX_PATTERN} characters; shorten it")
    begins, ends = pattern.startswith("^"), _ends(pattern)
    body = "".join(_translated(without_anchors(pattern)))
    return f"{'' if begins else CHARACTER + '*'}(?:{body}){'' if ends else CHARACTER + '*'}"


def without_anchors(pattern: str) -> str:
    """A pattern without "^" in front and "$" at the end."""
    return pattern[pattern.startswith("^") : len(pattern) - _ends(pattern)]


def _ends(pattern: str) -> bool:
    """Whether the last character is an anchor, and not an escaped one."""
    backslashes = len(pattern) - 1 - len(pattern[:-1].rstrip("\\"))
    return pattern.endswith("$") and backslashes % 2 == 0


def _translated(pattern: str) -> Iterator[str]:
    for found in _TOKEN.finditer(pattern):
        kind, text = found.lastgroup, found[0]
        if kind == "anchor":
            raise StructureError("'^' is only supported as the first character, and '$' as the last; leave them out")
        if kind == "bad":
            raise StructureError(f"{text!r} is not supported; write the pattern without it")
        if kind == "set":
            yield f"[{_set(text)}&&{CHARACTER}]"
        elif kind == "group":
            yield "(?:"
        elif kind == "escape":
            yield _escape(text)
        elif text in ("[", "\\"):
            raise StructureError(f"{text!r} begins what does not end; complete it, or write {chr(92) + text!r}")
        elif kind == "character":
            yield CHARACTER if text == "." else _character(text)
        else:
            yield text


def _escape(text: str) -> str:
    """One escape outside of a set."""
    name = text[1]
    if name in SETS:
        return f"[{SETS[name]}]"
    if name in NEGATED:
        return f"[{NEGATED[name]}&&{CHARACTER}]"
    if name in _NAMED:
        return _NAMED[name]
    return _character(_escaped_character(text))


def _escaped_character(text: str) -> str:
    """The character that an escape stands for."""
    if len(text) > 2:
        return chr(int(text[2:], 16))
    if text[1].isalnum():
        raise StructureError(f"{text!r} is not supported; write it without")
    return text[1]


def _character(character: str) -> str:
    """One character as JSON writes it."""
    if character in '"\\':
        return escaped("\\" + character)
    if ord(character) < 32 or character == "\x7f" or 0xD800 <= ord(character) < 0xE000:
        raise StructureError(f"the character {character!r} is not supported; write it without")
    return escaped(character)


def _set(text: str) -> str:
    """A set of characters, without what JSON must escape."""
    negated = text.startswith("[^")
    inner = text[2 if negated else 1 : -1]
    if not inner or inner.startswith("]"):
        raise StructureError(f"{text!r} means other characters to others; write ']' as '\\\\]'")
    parts = []
    for found in re.finditer(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)|-|[^\\]", inner, re.DOTALL):
        piece = found[0]
        if piece == "-" and found.start() > 0 and found.end() < len(inner):
            parts.append("-")
        elif len(piece) == 1:
            parts.append(f"\\x{{{ord(piece):x}}}")
        elif piece[1] in SETS:
            parts.append(SETS[piece[1]])
        elif piece[1] in NEGATED:
            parts.append(NEGATED[piece[1]])
        elif piece[1] in _NAMED:
            parts.append(f"\\{piece[1]}")
        else:
            parts.append(f"\\x{{{ord(_escaped_character(piece)):x}}}")
    return f"[{'^' if negated else ''}{''.join(parts)}]"
