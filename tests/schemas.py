"""Random JSON schemas, of all that structured output holds."""

import random
from typing import Any

PATTERNS = (r"^[A-Z]{2}-\d{1,3}$", r"x.z", r"^(a|b\"|\\)+$", r"^[^x-z]{1,4}$", r"^\w+@\w+\.com$", r"^\S\s?\D$")
NAMES = ("a", "name", "größe", 'q"', "list", "n")


def random_schema(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose shortest answer is short."""
    plain = [_string, _number, _values]
    return draw.choice([*plain, _nested] if depth else plain)(draw, depth)


def _string(draw: random.Random, depth: int) -> dict[str, Any]:
    least = draw.randint(0, 2)
    bounds: list[dict[str, Any]] = [
        {},
        {"minLength": least, "maxLength": least + 5},
        {"pattern": draw.choice(PATTERNS)},
        {"format": draw.choice(["date", "date-time", "time", "uuid", "email", "ipv4", "uri"])},
    ]
    return {"type": "string", **draw.choice(bounds)}


def _number(draw: random.Random, depth: int) -> dict[str, Any]:
    low = draw.choice([-1, 0, draw.randint(-200, 200)])
    bounds = [("minimum", low), ("maximum", low + draw.randint(1, 90)), ("exclusiveMinimum", low - 0.5)]
    return {"type": draw.choice(["integer", "number"]), **dict(draw.sample(bounds, draw.randint(0, 3)))}


def _values(draw: random.Random, depth: int) -> dict[str, Any]:
    values = [1, -2.5, "yes", 'say "no"', None, True, [1, "x"], {"k": None}, ""]
    return draw.choice(
        [{"enum": draw.sample(values, 3)}, {"const": draw.choice(values)}, {"type": ["boolean", "null"]}]
    )


def _nested(draw: random.Random, depth: int) -> dict[str, Any]:
    kind = draw.choice(["object", "array", "any", "free", "ref" if depth == 2 else "object"])
    if kind == "array":
        least = draw.randint(0, 2)
        bounds = {"minItems": least, "maxItems": least + draw.randint(0, 2)}
        return {"type": "array", "items": random_schema(draw, depth - 1), **bounds}
    if kind == "any":
        parts = [random_schema(draw, depth - 1) for _ in range(2)]
        if draw.random() < 0.3 and all("type" in part for part in parts):
            return {"type": parts[0]["type"], "anyOf": parts}
        return {"anyOf": parts}
    if kind == "free":
        return {"type": "object", "additionalProperties": random_schema(draw, depth - 1)}
    if kind == "ref":
        inner = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
        return {"$ref": "#/$defs/n", "$defs": {"n": inner}}
    properties = {name: random_schema(draw, depth - 1) for name in draw.sample(NAMES, draw.randint(1, 3))}
    required = [name for name in properties if draw.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
