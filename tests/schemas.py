"""Random JSON schemas, of all that structured output holds."""

import random
from typing import Any

PATTERNS = (r"^[A-Z]{2}-\d{1,3}$", r"x.z", r"^(a|b\"|\\)+$", r"^[^x-z]{1,4}$", r"^\w+@\w+\.com$", r"^\S\s?\D$")
NAMES = ("a", "name", "größe", 'q"', "list", "n")


def random_schema(draw: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema whose shortest answer is short."""
    kinds = ["string", "number", "values", "pattern", "simple", "object", "array", "any", "ref"]
    kind = draw.choice(kinds if depth else kinds[:5])
    if kind == "string":
        least = draw.randint(0, 2)
        return draw.choice([{"type": "string"}, {"type": "string", "minLength": least, "maxLength": least + 5}])
    if kind == "number":
        low = draw.choice([-1, 0, draw.randint(-200, 200)])
        bounds = [("minimum", low), ("maximum", low + draw.randint(1, 90)), ("exclusiveMinimum", low - 0.5)]
        return {"type": draw.choice(["integer", "number"]), **dict(draw.sample(bounds, draw.randint(0, 3)))}
    if kind == "values":
        values = [1, -2.5, "yes", 'say "no"', None, True, [1, "x"], {"k": None}, ""]
        return {"enum": draw.sample(values, draw.randint(1, 4))}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(PATTERNS)}
    if kind == "simple":
        return {"type": draw.choice(["boolean", "null", ["integer", "null"]])}
    if kind == "object":
        properties = {name: random_schema(draw, depth - 1) for name in draw.sample(NAMES, draw.randint(1, 3))}
        required = [name for name in properties if draw.random() < 0.6]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        least = draw.randint(0, 2)
        bounds_of = {"minItems": least, "maxItems": least + draw.randint(0, 2)}
        return {"type": "array", "items": random_schema(draw, depth - 1), **bounds_of}
    if kind == "any":
        return {"anyOf": [random_schema(draw, depth - 1) for _ in range(2)]}
    inner = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}}}
    return {"$ref": "#/$defs/n", "$defs": {"n": inner}} if depth == 2 else {"type": "object"}
