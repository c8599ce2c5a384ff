"""From a JSON schema to a regular expression whose texts are JSON that the schema accepts.

Every text that matches is valid; not every valid text matches. Objects have their properties in the order of the
schema, and no others. There is one space or none after a colon and a comma, and no other white space. Numbers have no
exponent and at most `numbers.DIGITS` digits. A keyword that this cannot hold is refused, not ignored.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from unmask.engine.structure.numbers import integer_regex, number_regex
from unmask.engine.structure.pattern import CHARACTER, escaped, pattern_regex
from unmask.engine.structure.request import StructureError
from unmask.engine.structure.words import TYPES, check_words, of_kinds, several

MAX_REGEX = 100_000  # characters
MAX_RECURSION = 3  # times that a definition may be used inside itself
MAX_LENGTH = 4096  # items, characters
JSON_DEPTH = 3  # of objects and arrays in what may be any JSON
SPACE = " ?"
NOTHING = ""  # stands for what no text matches; each part of a schema that holds it is one itself, or leaves it out
ANY_CHARACTER = rf'(?:{CHARACTER}|\\["\\/bfnrt])'
FORMATS = {
    "date": r"[12][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])",
    "time": r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": r"[a-z0-9_]+(?:\.[a-z0-9_]+)*@[a-z0-9]+(?:\.[a-z0-9]+)*\.[a-z]{2,6}",
    "uri": r"https?://[a-z0-9]+(?:\.[a-z0-9]+)*(?:/[A-Za-z0-9_.~/-]*)?",
    "ipv4": r"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])",
}
FORMATS["date-time"] = f"{FORMATS['date']}T{FORMATS['time']}"
# Words that say nothing about which JSON is valid.
REMARKS = frozenset(
    (
        *("$comment", "$defs", "$id", "$schema", "definitions", "deprecated", "description", "discriminator", "title"),
        *("contentEncoding", "contentMediaType", "default", "example", "examples", "readOnly", "strict", "writeOnly"),
    )
)
WORDS: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
    "array": frozenset(("items", "prefixItems", "minItems", "maxItems", "additionalItems")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "integer": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    "boolean": frozenset(),
    "null": frozenset(),
}
ALL_WORDS = frozenset().union(*WORDS.values())

Schema = Mapping[str, Any]


def schema_regex(schema: Any) -> str:
    """The regular expression of a schema. Raises StructureError for what cannot be held, with where it stands."""
    try:
        regex = _Converter(schema).regex(schema, "schema", ())
    except RecursionError:
        raise StructureError("the schema is nested too deeply; nest it less") from None
    if regex == NOTHING:
        raise StructureError("the schema allows no value, or none that ends; correct it")
    return regex


def object_regex() -> str:
    """The regular expression of any JSON object."""
    return _any_object(_any_value(JSON_DEPTH - 1))


def _any_value(depth: int) -> str:
    plain = f"{_string_of(ANY_CHARACTER, 0, None)}|{number_regex(None, None)}|true|false|null"
    if depth == 0:
        return f"(?:{plain})"
    inner = _any_value(depth - 1)
    return f"(?:{plain}|{_any_object(inner)}|{_list(inner, 0, None)})"


def _any_object(value: str) -> str:
    return rf"\{{{_repeated(f'{_string_of(ANY_CHARACTER, 0, None)}:{SPACE}{value}', 0, None)}\}}"


def _string_of(character: str, least: int, most: int | None) -> str:
    return f'"{_times(character, least, most)}"'


def _times(text: str, least: int, most: int | None) -> str:
    """A text some times over."""
    return f"{text}{{{least},{'' if most is None else most}}}"


def _list(item: str, least: int, most: int | None) -> str:
    return rf"\[{_repeated(item, least, most)}\]"


def _repeated(item: str, least: int, most: int | None) -> str:
    """Items between commas. Written with the last one apart, as an automaton then holds each item once."""
    if most == 0:
        return ""
    several = _times(f"(?:{item},{SPACE})", max(least - 1, 0), None if most is None else most - 1) + item
    return several if least else f"(?:{several})?"


class _Converter:
    """Converts the parts of one schema. `where` is the place of a part, `within` the definitions that it is in."""

    def __init__(self, root: Any):
        self._root = root
        self._written = 0

    def regex(self, schema: Any, where: str, within: tuple[str, ...]) -> str:
        """The regular expression of a part, as a group, or NOTHING."""
        part = self._part(schema, where, within)
        text = f"(?:{part})" if part != NOTHING else NOTHING
        self._written += len(text)
        if self._written > 10 * MAX_REGEX or len(text) > MAX_REGEX:
            raise StructureError("the schema is too large; make it smaller, or nest it less deeply")
        return text

    def _part(self, schema: Any, where: str, within: tuple[str, ...]) -> str:
        if isinstance(schema, bool) or schema == {}:
            return NOTHING if schema is False else _any_value(JSON_DEPTH - 1)
        if not isinstance(schema, Mapping):
            raise StructureError(f"{where} must be an object, not {schema!r:.60}; correct it")
        check_words(schema, where)
        schema = {
            word: value for word, value in schema.items() if word not in REMARKS and not _says_nothing(word, value)
        }
        if "$ref" in schema:
            return self._reference(schema, where, within)
        if "allOf" in schema:
            return self._part(self._merged(schema, where), where, within)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._alternatives(schema, word, where, within)
        if "enum" in schema or "const" in schema:
            return self._values(schema, where)
        return self._of_types(schema, where, within)

    def _reference(self, schema: Schema, where: str, within: tuple[str, ...]) -> str:
        name = schema["$ref"]
        if set(schema) - {"$ref", "type"}:
            raise StructureError(f"{where} has words beside $ref, which is not supported; move them into a definition")
        if within.count(name) > MAX_RECURSION:
            return NOTHING  # deeper than this, the other alternatives remain
        part = self._resolved(name, where)
        return self.regex(of_kinds(part, schema["type"]) if "type" in schema else part, where, (*within, name))

    def _resolved(self, name: str, where: str) -> Any:
        """What a reference inside of the schema names: a JSON pointer (RFC 6901) after a number sign."""
        if not (name == "#" or name.startswith("#/")):
            raise StructureError(f"{where}.$ref is {name!r:.60}; only references into the schema, as '#/$defs/x', work")
        found = self._root
        for step in (unquote(part).replace("~1", "/").replace("~0", "~") for part in name.split("/")[1:]):
            try:
                found = found[int(step)] if isinstance(found, list) else dict(found)[step]
            except (IndexError, KeyError, TypeError, ValueError):
                message = f"{where}.$ref names {name!r:.60}, which the schema does not hold; correct it"
                raise StructureError(message) from None
        return found

    def _merged(self, schema: Schema, where: str) -> Schema:
        """An `allOf` of parts that no word occurs in twice, as one."""
        merged = {word: value for word, value in schema.items() if word != "allOf"}
        for i, given in enumerate(schema["allOf"]):
            if isinstance(given, Mapping):
                check_words(given, f"{where}.allOf[{i}]")
            refers = isinstance(given, Mapping) and set(given) - REMARKS == {"$ref"}
            part = self._resolved(given["$ref"], where) if refers else given
            if not isinstance(part, Mapping):
                raise StructureError(f"{where}.allOf[{i}] must be an object, not {part!r:.60}; correct it")
            if nested := part.keys() & {"$ref", "allOf"}:
                raise StructureError(f"{where}.allOf[{i}] holds {min(nested)!r}, which is not supported; write it out")
            for word, value in part.items():
                if word in REMARKS or merged.get(word, value) == value:
                    merged[word] = value
                else:
                    raise StructureError(f"{where}.allOf gives {word!r} twice; merge its parts into one")
        return merged

    def _alternatives(self, schema: Schema, word: str, where: str, within: tuple[str, ...]) -> str:
        parts = schema[word]
        if others := set(schema) - {word, "type"}:
            raise StructureError(f"{where} has {sorted(others)} beside {word}; move them into its parts")
        if "type" in schema:
            parts = [of_kinds(part, schema["type"]) for part in parts]
        if word == "oneOf" and not self._exclusive(parts, where):
            raise StructureError(f"{where}.oneOf: a value might match two of its parts; use anyOf")
        return _any_of([self.regex(part, f"{where}.{word}[{i}]", within) for i, part in enumerate(parts)])

    def _exclusive(self, parts: Sequence[Any], where: str) -> bool:
        """Whether no value matches two parts, as their types, or a property that both require, tell."""
        signs = [self._signs(part, where) for part in parts]
        return all(
            any(one[name].isdisjoint(other[name]) for name in one.keys() & other.keys())
            for i, one in enumerate(signs)
            for other in signs[:i]
        )

    def _signs(self, part: Any, where: str) -> dict[str, set[str]]:
        """What values of a part must have: their types under "", and the values of required properties, as JSON."""
        part = self._checked(part, where)
        if "$ref" in part:
            part = self._checked(self._resolved(part["$ref"], where), where)
        kinds = several(part.get("type", []))
        signs = {"": {"number" if kind == "integer" else kind for kind in kinds}} if kinds else {}
        for name in part.get("required", ()):
            value = self._checked(part.get("properties", {}).get(name), where)
            if "const" in value or "enum" in value:
                signs[f"property {name}"] = {json.dumps(x) for x in value.get("enum", [value.get("const")])}
        if "const" in part or "enum" in part:
            signs["value"] = {json.dumps(x, sort_keys=True) for x in part.get("enum", [part.get("const")])}
        return signs

    def _checked(self, part: Any, where: str) -> Schema:
        """A part whose words are fit to be read; without any if it is no object."""
        found: Schema = part if isinstance(part, Mapping) else {}
        check_words(found, where)
        return found

    def _values(self, schema: Schema, where: str) -> str:
        """The values of `enum` or `const` that the rest of the schema, which may only be types, allows."""
        if others := set(schema) - {"enum", "const", "type"}:
            raise StructureError(f"{where} has {sorted(others)} beside its values; leave them out")
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if "type" in schema:
            kinds = set(several(schema["type"]))
            values = [value for value in values if kinds & _kinds(value)]
        if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
            return NOTHING
        return _any_of([_literal(value) for value in values])

    def _of_types(self, schema: Schema, where: str, within: tuple[str, ...]) -> str:
        kinds = several(schema.get("type", _implied(schema)))
        allowed = frozenset(("type", "nullable")).union(*(WORDS[kind] for kind in kinds))
        if unknown := sorted(set(schema) - allowed - (ALL_WORDS if "type" in schema else frozenset())):
            raise StructureError(f"{where} has {', '.join(map(repr, unknown))}, which is not supported; leave it out")
        parts = [self._of_type(kind, schema, where, within) for kind in kinds]
        return _any_of([*parts, "null"] if schema.get("nullable") else parts)

    def _of_type(self, kind: str, schema: Schema, where: str, within: tuple[str, ...]) -> str:
        if kind == "object":
            return self._object(schema, where, within)
        if kind == "array":
            return self._array(schema, where, within)
        if kind == "string":
            return _string(schema, where)
        if kind in ("integer", "number"):
            return _number(kind, schema, where)
        return "true|false" if kind == "boolean" else "null"

    def _object(self, schema: Schema, where: str, within: tuple[str, ...]) -> str:
        properties, required = schema.get("properties", {}), list(schema.get("required", ()))
        if missing := [name for name in required if name not in properties]:
            raise StructureError(f"{where}.required names {missing[0]!r:.60}, which 'properties' lacks; add it")
        least, most = _bounds(schema, "Properties", where)
        if not properties:
            return self._free_object(schema, least, most, where, within)
        if least > len(required) or (most is not None and most < len(properties)):
            raise StructureError(f"{where}: a number of properties is not supported beside 'properties'; leave it out")
        values = {name: self.regex(part, f"{where}.properties.{name}", within) for name, part in properties.items()}
        if any(values[name] == NOTHING for name in required):
            return NOTHING
        held = {name: value for name, value in values.items() if value != NOTHING}
        pairs = [(f"{_literal(name)}:{SPACE}{value}", name in required) for name, value in held.items()]
        if sum(len(text) for text, _ in pairs) * (1 if required else len(pairs)) > 2 * MAX_REGEX:
            raise StructureError(f"{where} is too large; make it smaller, or require one of its properties")
        return rf"\{{{_between_commas(pairs)}\}}"

    def _free_object(self, schema: Schema, least: int, most: int | None, where: str, within: tuple[str, ...]) -> str:
        """An object whose names are free. They might repeat, so a lower bound above 1 cannot be held."""
        further = schema.get("additionalProperties", True)
        if least > 1:
            raise StructureError(f"{where}.minProperties above 1 is not supported without 'properties'; leave it out")
        if further is False:
            most = 0
        value = NOTHING if most == 0 else self.regex(further, f"{where}.additionalProperties", within)
        if value == NOTHING:
            return NOTHING if least else r"\{\}"
        return rf"\{{{_repeated(f'{_string_of(ANY_CHARACTER, 0, None)}:{SPACE}{value}', least, most)}\}}"

    def _array(self, schema: Schema, where: str, within: tuple[str, ...]) -> str:
        least, most = _bounds(schema, "Items", where)
        first = list(schema.get("prefixItems", ()))
        if not first:
            item = NOTHING if most == 0 else self.regex(schema.get("items", True), f"{where}.items", within)
            if item == NOTHING:
                return NOTHING if least else r"\[\]"
            return _list(item, least, most)
        if least > len(first) or schema.get("items", schema.get("additionalItems", False)) is not False:
            raise StructureError(f"{where}: items after 'prefixItems' are not supported; set 'items' to false")
        if most is not None and most < len(first):
            first = first[:most]
        items = [self.regex(part, f"{where}.prefixItems[{i}]", within) for i, part in enumerate(first)]
        return NOTHING if NOTHING in items else rf"\[{f',{SPACE}'.join(items)}\]"


def _string(schema: Schema, where: str) -> str:
    least, most = _bounds(schema, "Length", where)
    given = [word for word in ("pattern", "format") if word in schema]
    if len(given) == 2 or (given and ("minLength" in schema or "maxLength" in schema)):
        raise StructureError(
            f"{where}: 'pattern', 'format' and a length exclude each other; put the length in a pattern"
        )
    if "pattern" in schema:
        try:
            return f'"{pattern_regex(schema["pattern"])}"'
        except StructureError as error:
            raise StructureError(f"{where}.pattern: {error}") from None
    if "format" in schema:
        if schema["format"] not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            raise StructureError(f"{where}.format is {schema['format']!r:.60}; use one of {known}, or leave it out")
        return f'"{FORMATS[schema["format"]]}"'
    return _string_of(ANY_CHARACTER, least, most)


def _number(kind: str, schema: Schema, where: str) -> str:
    for word in WORDS["number"]:
        value = schema.get(word, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise StructureError(f"{where}.{word} must be a number, not {value!r:.60}; correct it")
    least = [(schema[word], word != "minimum") for word in ("minimum", "exclusiveMinimum") if word in schema]
    most = [(-schema[word], word != "maximum") for word in ("maximum", "exclusiveMaximum") if word in schema]
    low, high = max(least, default=None), max(most, default=None)
    upper = None if high is None else (-high[0], high[1])
    regex = (integer_regex if kind == "integer" else number_regex)(low, upper)
    if regex is None:
        raise StructureError(
            f"{where}: no {kind} that can be written without a power lies between its bounds; widen them"
        )
    return regex


def _any_of(parts: Sequence[str]) -> str:
    return "|".join(part for part in parts if part != NOTHING)


def _between_commas(pairs: Sequence[tuple[str, bool]]) -> str:
    """Texts between commas, in order; those that are not required may be left out."""
    needed = next((i for i, (_, required) in enumerate(pairs) if required), None)
    if needed is not None:
        before = "".join(f"(?:{text},{SPACE})?" for text, _ in pairs[:needed])
        return before + pairs[needed][0] + _after(pairs[needed + 1 :])
    if not pairs:
        return ""
    return f"(?:{'|'.join(text + _after(pairs[i + 1 :]) for i, (text, _) in enumerate(pairs))})?"


def _after(pairs: Sequence[tuple[str, bool]]) -> str:
    return "".join(f"(?:,{SPACE}{text}){'' if required else '?'}" for text, required in pairs)


def _bounds(schema: Schema, of: str, where: str) -> tuple[int, int | None]:
    """`minItems` and `maxItems`, or their like."""
    least, most = schema.get(f"min{of}", 0), schema.get(f"max{of}")
    for word, value in ((f"min{of}", least), (f"max{of}", most)):
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_LENGTH):
            raise StructureError(f"{where}.{word} must be an integer from 0 to {MAX_LENGTH}, not {value!r:.60}")
    if most is not None and least > most:
        raise StructureError(f"{where}: min{of} is above max{of}; correct one of them")
    return least, most


def _literal(value: Any) -> str:
    """A value as JSON, the members of objects and arrays between a comma and a space."""
    try:
        return escaped(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        raise StructureError(f"{value!r:.60} is not JSON; leave it out") from None


def _kinds(value: Any) -> set[str]:
    """The types that a value has."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return {"integer", "number"}
    names: dict[type, str] = {str: "string", float: "number", list: "array", dict: "object", type(None): "null"}
    return {names[type(value)]}


def _implied(schema: Schema) -> list[str]:
    """The types that the words of a schema without a type speak of: the others are valid, too, and left out."""
    found = [kind for kind in ("object", "array", "string", "number") if WORDS[kind] & schema.keys()]
    return found or list(TYPES)


def _says_nothing(word: str, value: Any) -> bool:
    return word == "uniqueItems" and value is False
