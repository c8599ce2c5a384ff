"""The format of Hermes and Qwen for calls, which LLaDA2's template has, too: JSON between tags.

    <tool_call>
    {"name": "add", "arguments": {"a": 1, "b": 2}}
    </tool_call>

Results come back between `<tool_response>` tags. Where the chat template knows no tools, a system text says all this.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmask.engine.structure.pattern import escaped

OPENING = "<tool_call>"
BEGIN = f"{OPENING}\n"
END = "\n</tool_call>"  # JSON holds no line break inside of its texts, so this stands in none
BETWEEN = f"{END}\n{BEGIN}"

EXPLAINED = (
    "You can call functions. Each of the next lines describes one: its name, what it does, and the JSON schema of its "
    "arguments."
)
HOW = (
    "To call a function, write its name and its arguments as JSON between tags:\n"
    f'{BEGIN}{{"name": "NAME", "arguments": {{}}}}{END}\n'
    "Its result comes back between the tags <tool_response> and </tool_response>. If you need no function, answer in "
    "plain text."
)


@dataclass(frozen=True)
class Call:
    """A call as a model wrote it; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


def call_regex(names: Sequence[str], arguments: str) -> str:
    """What a call is between its tags, for functions with the same `arguments`, a regular expression."""
    of_names = "|".join(escaped(_json(name)) for name in names)
    return rf'\{{"name": (?:{of_names}), "arguments": (?:{arguments})\}}'


def calls_regex(calls: Sequence[str], several: bool) -> str:
    """What follows the first opening tag: one of some calls, or several, and the last closing tag."""
    one = f"(?:{'|'.join(calls)})"
    # With the last one apart, as an automaton then holds each call once.
    return (f"(?:{one}{escaped(BETWEEN)})*" if several else "") + one + escaped(END)


def read(text: str) -> list[Call]:
    """The calls in a text that follows the first opening tag; only those that are whole."""
    *whole, _ = text.split(END)
    return [_read(part.removeprefix("\n").removeprefix(BEGIN)) for part in whole]


def _read(text: str) -> Call:
    name: str = json.loads(text)["name"]
    return Call(name, text[len(f'{{"name": {_json(name)}, "arguments": ') : -1])  # as they were written


def explained(tools: Sequence[dict[str, Any]]) -> str:
    """What a model is told of some tools."""
    return "\n".join([EXPLAINED, *(_json(tool["function"]) for tool in tools), HOW])


def as_texts(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation in which tools are texts, for templates that know none."""
    said = [_as_text(message) for message in messages]
    if not tools:
        return said
    if said[0]["role"] == "system":
        return [{**said[0], "content": f"{said[0]['content']}\n\n{explained(tools)}"}, *said[1:]]
    return [{"role": "system", "content": explained(tools)}, *said]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
    if message["role"] == "tool":
        return {**kept, "role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [BEGIN + _json(call["function"]) + END for call in message.get("tool_calls", ())]
    return {**kept, "content": "\n".join([*([message["content"]] if message["content"] else []), *calls])}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
