"""What of docs/api.md is written by machine: tables of fields, from the types that parse them, and answers to the
page's examples, from a server. `python -m tests.api_page` writes both anew; a test finds out if that is due."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tests.live import live
from unmask.server.parse.requests import COMPLETION_MAX_TOKENS
from unmask.server.settings import ServeSettings
from unmask.server.wire.anthropic import ConversationFields
from unmask.server.wire.fields import Body
from unmask.server.wire.messages import Message, TextPart
from unmask.server.wire.openai import StreamOptions
from unmask.server.wire.tools import ToolFields

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
TABLE = re.compile(r"(<!-- fields: ([\w.]+) -->\n).*?(<!-- /fields -->)", re.DOTALL)
EXAMPLE = re.compile(
    r"(```\ncurl -s localhost:8000(\S+)(?: -H 'content-type: application/json' -d '(.*?)')?\n```\n\n)"
    r"```(json|text)\n(.*?)```",
    re.DOTALL,
)
VOLATILE = re.compile(
    r"(?:-?\d+\.\d+(?:e-\d+)?|\d+e-\d+"
    r'|"(?:id|created|created_at|available_bytes|total_duration|eval_duration)": ?(?:"[^"]*"|\d+))'
)

Ask = Callable[[str, str | None], str]


def _setting(name: str) -> str:
    return f"{ServeSettings.model_fields[name].default}, `--{name.replace('_', '-')}`"


# What a field that is left out comes to, where that is neither nothing nor false.
DEFAULTS = {
    "block_length": _setting("default_block_length"),
    "cache": _setting("cache"),
    "input_state": _setting("input_state"),
    "speed": "the scheduler's, `--speed`",
    "mask_marker": "`[MASK]`",
    "max_completion_tokens": "as `max_tokens`",
    "max_forward_passes": "4 for each mask",
    "frequency_penalty": "0",
    "max_output_tokens": "as `max_tokens`",
    "min_p": "0",
    "num_predict": "as `max_tokens`",
    "min_tokens": "0",
    "presence_penalty": "0",
    "repeat_penalty": "1",
    "repetition_penalty": "1",
    "max_tokens": f"the model's, `--default-max-tokens`; {COMPLETION_MAX_TOKENS} on `/v1/completions`",
    "model": "the one served",
    "n": "1",
    "scheduler": _setting("default_scheduler"),
    "stop_sequences": "as `stop`",
    "seed": "random; 0 on `/score`",
    "temperature": "0",
    "timeout": "`--request-timeout`",
    "top_k": "0",
    "top_logprobs": "0",
    "top_p": "1",
}


def render(page: str, ask: Ask) -> str:
    """The page with its tables and answers as they are now."""
    page = TABLE.sub(lambda found: found[1] + table(wire_type(found[2])) + found[3], page)
    return EXAMPLE.sub(lambda found: f"{found[1]}```{found[4]}\n{_shown(ask(found[2], found[3]))}```", page)


def stable(page: str) -> str:
    """The page without what differs from run to run: ids, times, and decimals."""
    return VOLATILE.sub("~", page)


def table(kind: type[BaseModel]) -> str:
    """The fields of a class that are not as those of its base; of an answer, without defaults."""
    inherited = {name: field for base in kind.__bases__ for name, field in getattr(base, "model_fields", {}).items()}
    schema = kind.model_json_schema()
    coming_in = issubclass(kind, Body | ConversationFields | Message | StreamOptions | TextPart | ToolFields)
    rows = [["field", "type", *(["default"] if coming_in else []), "meaning"]]
    rows.append(["---"] * len(rows[0]))
    for name, field in kind.model_fields.items():
        if name in inherited and field.description == inherited[name].description:
            continue
        name = field.alias or name  # noqa: PLW2901
        needed = field.default is PydanticUndefined
        default = (
            "required"
            if needed
            else DEFAULTS.get(name, str(bool(field.default)).lower() if _is_flag(schema, name) else "")
        )
        meaning = (field.description or "").replace("|", "\\|")
        rows.append([f"`{name}`", _type(schema["properties"][name]), *([default] if coming_in else []), meaning])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def classes(page: str) -> set[str]:
    return {found[2] for found in TABLE.finditer(page)}


def wire_type(name: str) -> type[BaseModel]:
    module, _, kind = name.rpartition(".")
    found: type[BaseModel] = getattr(import_module(f"unmask.server.wire.{module}"), kind)
    return found


def _is_flag(schema: dict[str, Any], name: str) -> bool:
    return _type(schema["properties"][name]) == "true or false"


def _type(schema: dict[str, Any]) -> str:
    """One field's JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "$ref" in schema:
        return f"object: `{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        empty = {"type": "null"} in schema["items"].get("anyOf", ())
        return f"list of {_type(schema['items'])}{' or null' * empty}"
    words = {"string": "text", "boolean": "true or false", "object": "object", "null": "null"}
    return words.get(schema.get("type", ""), schema.get("type", "any")) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    high = None if high is not None and high >= 2**31 - 1 else high
    if (above := schema.get("exclusiveMinimum")) is not None:
        return f" above {above:g}" + (f", to {high:g}" if high is not None else "")
    if low is None:
        return ""
    return f" from {low:g}" + (f" to {high:g}" if high is not None else "")


def _shown(answer: str) -> str:
    """JSON as people read it, lists of plain values on one line; a stream as it comes."""
    if not answer.startswith("{"):
        return answer.strip() + "\n"
    text = json.dumps(json.loads(answer), indent=2, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def asking(http: httpx.Client) -> Ask:
    def ask(path: str, body: str | None) -> str:
        if body is None:
            return http.get(path).text
        return http.post(path, content=body.encode(), headers={"content-type": "application/json"}).text

    return ask


def main() -> None:
    with live("llada-nano") as server:
        PAGE.write_text(render(PAGE.read_text(), asking(server.http)))


if __name__ == "__main__":
    main()
