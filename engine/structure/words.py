"""What the words of a JSON schema must hold: checked once for each part, before anything is made of it."""

from collections.abc import Callable, Mapping
from typing import Any

from unmask.engine.structure.request import StructureError

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_type(value: Any) -> bool:
    return value in TYPES or (_is_list(value) and all(one in TYPES for one in value))


_TEXT = (_is_text, "a text")
_LIST = (_is_list, "a list that is not empty")
SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of them"),
    "required": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
    "properties": (lambda value: isinstance(value, Mapping), "an object"),
    "nullable": (lambda value: isinstance(value, bool), "true or false"),
    **dict.fromkeys(("$ref", "format", "pattern"), _TEXT),
    **dict.fromkeys(("enum", "anyOf", "oneOf", "allOf", "prefixItems"), _LIST),
}


def check_words(schema: Mapping[str, Any], where: str) -> None:
    """Raise StructureError for a word that holds what no schema may have there."""
    for word, (fits, what) in SHAPES.items():
        if word in schema and not fits(schema[word]):
            raise StructureError(f"{where}.{word} must be {what}, not {schema[word]!r:.60}; correct it")


def several(kinds: str | list[str]) -> list[str]:
    """The types that `type` holds."""
    return [kinds] if isinstance(kinds, str) else list(kinds)


def of_kinds(part: Any, kinds: str | list[str]) -> Any:
    """A part of a schema beside which a `type` stands, as one; false if no value is left."""
    if not isinstance(part, Mapping) or "type" not in part:
        return {**part, "type": kinds} if isinstance(part, Mapping) else part and {"type": kinds}
    check_words(part, "schema")
    allowed, own = set(several(kinds)), several(part["type"])
    common = [kind for kind in own if kind in allowed or (kind == "integer" and "number" in allowed)]
    if "number" in own and "integer" in allowed - set(common) and "number" not in common:
        common.append("integer")
    return bool(common) and {**part, "type": common[0] if len(common) == 1 else common}
