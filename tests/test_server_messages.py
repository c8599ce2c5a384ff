"""`/v1/messages` over a real socket. The official client asks it in tests/test_chat_clients.py."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.live import ANSWER, QUESTION, Live, live, named_events
from tests.synthetic import synthetic_dream
from tests.test_server_tools import POSITIONS, SCHEMAS, TEMPLATE, wanting, with_tags

ASKED: dict[str, Any] = {"model": "llada-nano", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
FAST = {"scheduler": "threshold", "block_length": 8}
TOOLS = [{"name": name, "description": "", "input_schema": schema} for name, schema in SCHEMAS.items()]
CALLING: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, "max_tokens": 160}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "count", "input": {"n": 3}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "1 2 3"}]}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}, CALL]},
    {"role": "user", "content": [RESULT, {"type": "text", "text": "and?"}]},
]
# The same for the chat endpoint.
CHAT_HISTORY: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": {"name": "count", "arguments": '{"n": 3}'}},
        ],
    },
    {"role": "tool", "content": "1 2 3", "tool_call_id": "toolu_1"},
    {"role": "user", "content": "and?"},
]
OF_TEXT = [
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    "message_stop",
]


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(blocks)}]}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'user', 'assistant' or 'system'"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "a text, or a list of blocks"),
    (turn({"type": "thinking", "thinking": "a"}), "messages", "holds no text, call or result"),
    (turn({"type": "image", "source": {}}), "messages.0.content", "blocks of type 'image' are not supported"),
    (turn({"type": "text"}), "messages.0.content.0.text", "is missing; give it"),
    (turn(CALL), "messages.0.content", "not for the role 'user'"),
    (turn(RESULT, role="assistant"), "messages.0.content", "not for the role 'assistant'"),
    (turn({"type": "tool_result"}), "messages.0.content.0.tool_use_id", "is missing; give it"),
    ({"system": [{"type": "image"}]}, "system", "parts of type 'image' are not supported"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type", "this server runs none"),
    ({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}, "tools.0.input_schema", "schema of an object"),
    ({"tools": [{"name": "a", "strict": True, "input_schema": {"not": {}}}]}, "tools", "'not', which is not supported"),
    ({"tool_choice": {"type": "any"}}, "tool_choice", "send the tools"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "need each other"),
    ({"mcp_servers": [{"url": "a"}]}, "mcp_servers", "this server runs no tools"),
    ({"stop": ["a"], "stop_sequences": ["b"]}, "stop_sequences", "differ"),
    ({"max_completion_tokens": 5}, "max_completion_tokens", "the length is 'max_tokens'"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema", "is missing; give it"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "output_config", "'not', which"),
    ({"messages": [{"role": "user", "content": "a" * 9000}]}, "messages", "maximum context length"),
    ({"output_format": {"type": "json_schema"}}, "output_format", 'send {"format": ...} there'),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"scheduler": "nope"}, "scheduler", "unknown scheduler"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_dream(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=POSITIONS)
    with_tags(folder)
    (folder / "tools.jinja").write_text(TEMPLATE)
    with live(folder, chat_template=str(folder / "tools.jinja")) as running:
        yield running


def ask(server: Live, **body: Any) -> dict[str, Any]:
    response = server.http.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events(server: Live, **body: Any) -> list[dict[str, Any]]:
    with server.http.stream("POST", "/v1/messages", json={**body, "stream": True}) as response:
        found = list(named_events(response))
    assert [name for name, _ in found] == [data["type"] for _, data in found]
    return [data for _, data in found]


def test_a_text(server: Live) -> None:
    message = ask(server, **ASKED, **FAST, metadata={"user_id": "a"}, thinking={"type": "enabled"})
    assert message["content"] == [{"type": "text", "text": ANSWER}]
    assert (message["type"], message["role"], message["id"][:4]) == ("message", "assistant", "msg_")
    assert (message["stop_reason"], message["stop_sequence"]) == ("end_turn", None)
    native = server.generate(messages=ASKED["messages"], **FAST)
    assert message["diffusion"]["forward_passes"] == native["diffusion"]["forward_passes"]
    given, written = native["usage"]["prompt_tokens"], native["usage"]["completion_tokens"]
    assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (given, written)
    counted = server.http.post("/v1/messages/count_tokens", json={k: ASKED[k] for k in ("model", "messages")})
    assert counted.json() == {"input_tokens": given}


def test_a_stream_has_anthropics_events_and_adds_up(server: Live) -> None:
    found = events(server, **ASKED, **FAST)
    assert list(dict.fromkeys(data["type"] for data in found)) == OF_TEXT
    pieces = [data["delta"]["text"] for data in found if data["type"] == "content_block_delta"]
    assert len(pieces) > 2
    assert "".join(pieces) == ANSWER
    whole = ask(server, **ASKED, **FAST)
    begun, ended = found[0]["message"], found[-2]
    assert (begun["content"], begun["stop_reason"], begun["usage"]["output_tokens"]) == ([], None, 0)
    assert begun["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert ended["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert ended["usage"] == whole["usage"]
    assert ended["diffusion"]["forward_passes"] == whole["diffusion"]["forward_passes"]


def test_why_it_stopped(server: Live) -> None:
    short = ask(server, **{**ASKED, "max_tokens": 4})
    assert (short["stop_reason"], short["stop_sequence"]) == ("max_tokens", None)
    stopped = ask(server, **ASKED, **FAST, stop_sequences=["zzz", "15"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "15")
    assert stopped["content"][0]["text"] == ANSWER.partition("15")[0]
    *_, ended, _ = events(server, **ASKED, **FAST, stop_sequences=["15"])
    assert ended["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "15"}


def test_a_form(server: Live) -> None:
    form = {"format": {"type": "json_schema", "schema": SCHEMAS["count"]}}
    (block,) = ask(server, **ASKED, output_config=form)["content"]
    jsonschema.validate(json.loads(block["text"]), SCHEMAS["count"])


def test_a_fault_in_the_middle_ends_a_stream_with_an_error(server: Live) -> None:
    last = events(server, **{**ASKED, "max_tokens": 400, "timeout": 0.2})[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "timeout_error")


def test_a_conversation_is_that_of_the_chat_endpoint(tiny: Live) -> None:
    system = [{"type": "text", "text": "Be brief."}]
    told = {"messages": HISTORY, "system": system, "tools": TOOLS}
    functions = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
    chat = {"messages": CHAT_HISTORY, "tools": functions, "tool_choice": "none", "max_tokens": 8, "seed": 1}
    wanted = tiny.http.post("/v1/chat/completions", json=chat).json()
    found = ask(tiny, **told, tool_choice={"type": "none"}, max_tokens=8, seed=1)
    assert "".join(block["text"] for block in found["content"]) == wanted["choices"][0]["message"]["content"]
    assert found["usage"]["input_tokens"] == wanted["usage"]["prompt_tokens"]
    assert tiny.http.post("/v1/messages/count_tokens", json=told).json()["input_tokens"] >= 40


def test_calls_fit_their_schemas_whole_and_streamed(tiny: Live) -> None:
    for name, schema in SCHEMAS.items():
        must = {**CALLING, "tool_choice": {"type": "tool", "name": name, "disable_parallel_tool_use": True}}
        message = ask(tiny, **must, seed=1)
        (call,) = message["content"]
        assert (call["type"], call["name"], message["stop_reason"]) == ("tool_use", name, "tool_use")
        jsonschema.validate(call["input"], schema)
        begun, delta, _ = events(tiny, **must, seed=1)[1:4]
        assert begun["content_block"] | {"id": ""} == {"type": "tool_use", "id": "", "name": name, "input": {}}
        assert json.loads(delta["delta"]["partial_json"]) == call["input"]
    assert ask(tiny, **CALLING, tool_choice={"type": "any"})["stop_reason"] == "tool_use"


def test_text_before_calls_is_a_block_of_its_own(tiny: Live) -> None:
    with wanting(tiny, "<tool_call>", 5.0):
        for seed in range(40):
            asked = {**CALLING, "temperature": 1, "seed": seed}
            blocks = ask(tiny, **asked)["content"]
            if [block["type"] for block in blocks] == ["text", "tool_use"]:
                break
        found = events(tiny, **asked)
    kinds = [data["content_block"]["type"] for data in found if data["type"] == "content_block_start"]
    assert [block["type"] for block in blocks] == kinds == ["text", "tool_use"]
    text = "".join(data["delta"].get("text", "") for data in found if data["type"] == "content_block_delta")
    assert blocks[0]["text"] == text
    assert "<tool_call>" not in text
    indices = [data["index"] for data in found if data["type"] == "content_block_stop"]
    assert indices == list(range(len(kinds)))


def test_tools_that_leave_no_room_are_named(server: Live) -> None:
    response = server.http.post("/v1/messages", json={**ASKED, "tools": TOOLS})
    assert response.status_code == 400
    assert "tokens with its tools" in response.json()["error"]["message"]
    assert "--ignore-tools" in response.json()["error"]["message"]


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/v1/messages", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
