"""`/api/chat` and `/api/tags` over a real socket. Ollama's own client asks them in tests/test_chat_clients.py."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from tests.live import ANSWER, QUESTION, Live, live
from tests.synthetic import synthetic_dream
from tests.test_server_tools import POSITIONS, SCHEMAS, TEMPLATE, tool, with_tags

MESSAGES = [{"role": "user", "content": QUESTION}]
FAST = {"scheduler": "threshold", "block_length": 8}
ASKED: dict[str, Any] = {"model": "llada-nano", "messages": MESSAGES, "options": FAST}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "count", "arguments": {"n": 3}}}]}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "user", "content": "a", "images": ["iVBO"]}]}, "messages.0.images", "reads text only"),
    ({"messages": [{"role": "user", "content": "a" * 9000}]}, "messages", "maximum context length"),
    ({"format": "xml"}, "format", "'json', or a JSON schema"),
    ({"format": {"not": {}}}, "format", "'not', which is not supported"),
    ({"format": "json", "options": {"response_format": {"type": "json_object"}}}, "format", "exclude each other"),
    ({"scheduler": "margin"}, "scheduler", "stands in 'options'; send it there"),
    ({"logprobs": True}, "logprobs", "use /v1/chat/completions"),
    ({"mesages": []}, "mesages", "did you mean 'messages'?"),
    ({"options": {"num_predict": 5, "max_tokens": 6}}, "options.num_predict", "differ"),
    ({"options": {"temperature": 5}}, "options.temperature", "less than or equal to 2"),
    ({"options": {"mirostat": 2}}, "options.mirostat", "samples by"),
    ({"options": {"schedular": "margin"}}, "options.schedular", "did you mean 'scheduler'?"),
    ({"options": {"scheduler": "nope"}}, "scheduler", "unknown scheduler"),
    ({"tools": [{"type": "function"}]}, "tools.0.function", "is missing; give it"),
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
    response = server.http.post("/api/chat", json={**body, "stream": False})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def lines(server: Live, **body: Any) -> list[dict[str, Any]]:
    with server.http.stream("POST", "/api/chat", json=body) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        return [json.loads(line) for line in response.iter_lines()]


def test_a_text(server: Live) -> None:
    answer = ask(server, **ASKED, keep_alive="5m", think=False, format="", logprobs=False)
    assert answer["message"] == {"role": "assistant", "content": ANSWER}
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "stop", "llada-nano")
    native = server.generate(messages=MESSAGES, **FAST)
    assert answer["prompt_eval_count"] == native["usage"]["prompt_tokens"]
    assert answer["eval_count"] == native["usage"]["completion_tokens"]
    assert answer["diffusion"]["forward_passes"] == native["diffusion"]["forward_passes"]
    assert 0 < answer["eval_duration"] <= answer["total_duration"]
    assert ask(server, **{**ASKED, "model": "llada-nano:latest"})["message"] == answer["message"]


def test_a_stream_is_the_default_and_adds_up(server: Live) -> None:
    *pieces, last = lines(server, **ASKED)
    assert len(pieces) > 2
    assert "".join(piece["message"]["content"] for piece in pieces) == ANSWER
    assert not any(piece["done"] for piece in pieces)
    whole = ask(server, **ASKED)
    assert last["message"]["content"] == ""
    assert [last[name] for name in ("done", "eval_count")] == [True, whole["eval_count"]]
    assert last.keys() == whole.keys()


def test_options_have_ollamas_names(server: Live) -> None:
    short = ask(server, **{**ASKED, "options": {"num_predict": 4, "num_ctx": 2048, "stop": ["zzz"], "seed": 1}})
    assert (short["eval_count"], short["done_reason"]) == (4, "length")
    assert ask(server, **{**ASKED, "options": {"num_predict": -1}})["diffusion"]["length"] == 64
    odd = ask(server, **{**ASKED, "options": {**FAST, "repeat_penalty": 10}})
    even = ask(server, **{**ASKED, "options": {**FAST, "repetition_penalty": 10}})
    assert odd["message"] == even["message"] != ask(server, **ASKED)["message"]


@pytest.mark.parametrize("form", ["json", SCHEMAS["count"]])
def test_a_form(server: Live, form: str | dict[str, Any]) -> None:
    answer = json.loads(ask(server, **ASKED, format=form)["message"]["content"])
    jsonschema.validate(answer, {"type": "object"} if isinstance(form, str) else form)


def test_calls(tiny: Live) -> None:
    tools = [tool(name) for name in SCHEMAS]
    history = [{"role": "user", "content": "hi"}, CALLED, {"role": "tool", "content": "1 2 3", "tool_name": "count"}]
    asked = {"messages": history, "tools": tools, "tool_choice": "required", "options": {"num_predict": 160, "seed": 1}}
    whole = ask(tiny, **asked)
    calls = whole["message"]["tool_calls"]
    assert whole["message"]["content"] == ""
    for call in calls:
        jsonschema.validate(call["function"]["arguments"], SCHEMAS[call["function"]["name"]])
    streamed = [call for line in lines(tiny, **asked) for call in line["message"].get("tool_calls", ())]
    assert streamed == calls


def test_a_fault_in_the_middle_is_a_text(server: Live) -> None:
    last = lines(server, **{**ASKED, "options": {"num_predict": 400, "timeout": 0.2}})[-1]
    assert "was not done within" in last["error"]


def test_the_model_is_listed(server: Live) -> None:
    (model,) = server.http.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == "llada-nano"


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/api/chat", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
