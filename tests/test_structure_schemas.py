"""Schemas that are wrong are refused by what is wrong with them, and what little some allow is found."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.test_structure_bytes import accepts
from unmask.engine.structure.bytes import byte_automaton
from unmask.engine.structure.request import StructureError
from unmask.engine.structure.schema import schema_regex

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}
WRONG: list[tuple[Any, str]] = [
    ({**OBJECT, "required": True}, "schema.required must be a list of names, not True"),
    ({**OBJECT, "required": "a"}, "schema.required must be a list of names, not 'a'"),
    ({**OBJECT, "required": [["a"]]}, "schema.required must be a list of names"),
    ({"type": "object", "properties": [1]}, "schema.properties must be an object"),
    ({"type": "array", "items": {"type": 5}}, "schema.items.type must be one of object, .* or a list of them, not 5"),
    ({"type": [{"a": 1}], "enum": ["a"]}, "schema.type must be one of"),
    ({"type": []}, "schema.type must be one of"),
    ({"type": ""}, "schema.type must be one of"),
    ({"type": None}, "schema.type must be one of"),
    ({"type": "string", "format": []}, "schema.format must be a text"),
    ({"type": "string", "pattern": 5}, "schema.pattern must be a text"),
    ({"$ref": 5}, r"schema.\$ref must be a text"),
    ({"type": "integer", "nullable": 5}, "schema.nullable must be true or false"),
    ({"enum": {"a": 1}}, "schema.enum must be a list that is not empty"),
    ({"prefixItems": {"a": 1}}, "schema.prefixItems must be a list"),
    ({"allOf": [{"required": 1}]}, r"schema.allOf\[0\].required must be a list"),
    ({"oneOf": [{"type": "object", "required": True, "properties": []}, 5]}, "required must be a list of names"),
    ({"oneOf": [{"enum": 5}, {"const": 1}]}, "enum must be a list"),
    (
        {"oneOf": [{"type": kind, "required": ["k"], "properties": {"k": {"enum": 5}}} for kind in ("string", "null")]},
        "enum must be a list",
    ),
    ({"const": float("nan")}, "nan is not JSON"),
    ({"enum": [1, [float("inf")]]}, "inf.* is not JSON"),
    (False, "allows no value"),
    ({"$ref": "#"}, "allows no value, or none that ends"),
    ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "allows no value"),
    ({"type": "array", "items": False, "minItems": 1}, "allows no value"),
    ({"type": "array", "prefixItems": [True, False]}, "allows no value"),
    ({"type": "object", "additionalProperties": False, "minProperties": 1}, "allows no value"),
    ({"type": "object", "anyOf": [{"type": "string"}, {"type": ["array", "null"]}]}, "allows no value"),
    ({"$ref": "#/$defs/a", "$defs": {"a": None}}, "schema must be an object, not None"),
    ({"$ref": "#/enum/3", "enum": ["a"]}, "words beside"),
    ({"anyOf": [{"$ref": "#/anyOf/7"}]}, "which the schema does not hold"),
    ({"anyOf": [{"$ref": "#/anyOf/x"}]}, "which the schema does not hold"),
    ({"type": "string", "pattern": "a\\"}, "begins what does not end"),
    ({"type": "string", "pattern": "[a"}, "begins what does not end"),
    ({"type": "string", "pattern": "[]a]"}, "means other characters to others"),
]
ALLOWED: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "object", "properties": {"a": False, "b": True}}, [{}, {"b": 1}], [{"a": 1}]),
    ({"type": "array", "items": False}, [[]], [[1]]),
    ({"type": "object", "properties": {"x": {"$ref": "#"}}}, [{}, {"x": {}}, {"x": {"x": {}}}], [{"x": 1}]),
    ({"type": "object", "additionalProperties": {"$ref": "#"}}, [{}, {"x": {"y": {}}}], [{"x": 1}]),
    ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
    ({"type": "object", "anyOf": [OBJECT, {"type": "string"}]}, [{}, {"a": 1}], ["a", 1]),
    ({"type": "integer", "anyOf": [{"type": "number"}, {"const": 7}, {"const": "x"}]}, [1, 7], [1.5, "x"]),
    ({"type": ["number", "null"], "anyOf": [{"type": ["integer", "null", "string"]}]}, [1, None], [1.5, "a"]),
    ({"type": "object", "anyOf": [True, {"type": "null"}]}, [{"q": 1}], [None, 1]),
    ({"$ref": "#/$defs/a", "type": "string", "$defs": {"a": {"type": ["string", "null"]}}}, ["a"], [None]),
    ({"$ref": "#/%24defs/a~1b%20c", "$defs": {"a/b c": {"const": 1}}}, [1], [2]),
    ({"anyOf": [{"const": 1}, {"type": "array", "items": {"$ref": "#/anyOf/0"}}]}, [1, [1, 1]], [2, [2]]),
]


@pytest.mark.parametrize(("schema", "message"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_wrong_with_a_schema_is_told(schema: Any, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        schema_regex(schema)


@pytest.mark.parametrize(("schema", "valid", "invalid"), ALLOWED, ids=lambda value: str(value)[:60])
def test_what_a_schema_allows_is_found(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    automaton = byte_automaton(schema_regex(schema))
    for fits, values in ((True, valid), (False, invalid)):
        for value in values:
            assert accepts(automaton, json.dumps(value)) == fits
            assert jsonschema.Draft202012Validator(schema).is_valid(value) == fits
