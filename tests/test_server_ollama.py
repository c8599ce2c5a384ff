"""Ollama's endpoints over a real socket. Ollama's own client asks them in tests/test_chat_clients.py."""

import json
from collections.abc import Iterator
from pathlib import Path
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
BAD_PROMPTS: list[tuple[dict[str, Any], str, str]] = [
    ({"context": [1, 2]}, "context", "keeps no conversations; use /api/chat"),
    ({"images": ["iVBO"]}, "images", "reads text only"),
    ({"template": "{{ .Prompt }}"}, "template", "--chat-template FILE"),
    ({"prompt": "a" * 9000}, "prompt", "maximum context length"),
    ({"raw": True, "prompt": "a" * 9000}, "prompt", "maximum context length"),
    ({"prompt": "", "suffix": "a"}, "prompt", "holds no tokens"),
    ({"format": "xml"}, "format", "'json', or a JSON schema"),
    ({"num_predict": 5}, "num_predict", "stands in 'options'"),
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
    assert (answer["done"], answer["done_reason"], answer["model"]) == (True, "stop", "llada-nano:latest")
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
    assert ask(server, **{**ASKED, "options": {"num_predict": -1, "seed": -1}})["diffusion"]["length"] == 64
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
    """With the tag that Ollama's clients add to names without one before they look for them here."""
    (model,) = server.http.get("/api/tags").json()["models"]
    assert model["name"] == model["model"] == "llada-nano:latest"
    assert server.http.get("/api/ps").json()["models"] == [model]
    card = server.http.post("/api/show", json={"model": model["name"], "verbose": True}).json()
    assert card["capabilities"] == ["completion", "insert", "tools"]
    assert "message['role']" in card["template"]
    assert card["model_info"][f"{card['model_info']['general.architecture']}.context_length"] == 512
    assert {name: model[name] for name in ("details", "modified_at")}.items() <= card.items()
    assert all(part.isdecimal() for part in server.http.get("/api/version").json()["version"].split("."))
    for path in ("/api/show", "/api/chat", "/api/generate"):
        answer = server.http.post(path, json={"model": "other:latest", "messages": MESSAGES})
        assert answer.status_code == 404
        assert "model 'other' is not served" in answer.json()["error"]


@pytest.mark.parametrize("names", [("own:1b", "own:1b"), ("own", "own:latest"), ("own:latest", "own:latest")])
def test_a_name_has_one_tag(tmp_path: Path, names: tuple[str, str]) -> None:
    served, listed = names
    with live(synthetic_dream(tmp_path / "tiny"), served_model_name=served) as server:
        (model,) = server.http.get("/api/tags").json()["models"]
        assert model["model"] == listed
        for name in names:
            assert server.http.post("/api/show", json={"model": name}).status_code == 200


def test_a_prompt(server: Live) -> None:
    asked = {"model": "llada-nano", "prompt": QUESTION, "options": FAST}
    whole = server.http.post("/api/generate", json={**asked, "stream": False}).json()
    chat = ask(server, **ASKED)
    assert (whole["response"], whole["eval_count"], whole["done_reason"]) == (ANSWER, chat["eval_count"], "stop")
    assert whole.keys() - {"response"} == chat.keys() - {"message"}
    with server.http.stream("POST", "/api/generate", json=asked) as response:
        *pieces, last = map(json.loads, response.iter_lines())
    assert "".join(piece["response"] for piece in pieces) == ANSWER
    assert (last["response"], last["done"], last["eval_count"]) == ("", True, chat["eval_count"])
    briefed = server.http.post("/api/generate", json={**asked, "system": "Be brief.", "stream": False}).json()
    assert briefed["prompt_eval_count"] > whole["prompt_eval_count"]
    formed = server.http.post("/api/generate", json={**asked, "format": SCHEMAS["count"], "stream": False}).json()
    jsonschema.validate(json.loads(formed["response"]), SCHEMAS["count"])


def test_a_prompt_as_it_is(server: Live) -> None:
    body = {"prompt": f"{QUESTION}\n\n", "stream": False, "options": {"num_predict": 11}}
    fim = {"prompt": body["prompt"], "suffix": ANSWER[20:], "max_tokens": 11}
    between = server.http.post("/v1/fim/completions", json=fim).json()["choices"][0]["text"]
    assert server.http.post("/api/generate", json={**body, "suffix": fim["suffix"]}).json()["response"] == between
    raw = server.http.post("/v1/completions", json={"prompt": body["prompt"], "max_tokens": 11}).json()
    answer = server.http.post("/api/generate", json={**body, "raw": True}).json()
    assert answer["response"] == raw["choices"][0]["text"]
    assert answer["prompt_eval_count"] == raw["usage"]["prompt_tokens"]


def test_no_prompt_asks_whether_the_model_is_there(server: Live) -> None:
    for body in ({}, {"model": "llada-nano:latest", "prompt": "", "keep_alive": 0}):
        answer = server.http.post("/api/generate", json=body).json()
        assert (answer["done"], answer["done_reason"], answer["response"]) == (True, "load", "")


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        *(("POST", f"/api/{name}", "embeds none") for name in ("embed", "embeddings")),
        *(("POST", f"/api/{name}", "unmask serve MODEL") for name in ("pull", "push", "create", "copy", "blobs/a")),
        ("DELETE", "/api/delete", "unmask serve MODEL"),
    ],
)
def test_what_this_server_does_not_do_is_told(server: Live, method: str, path: str, what: str) -> None:
    response = server.http.request(method, path, json={"model": "llada-nano"})
    assert response.status_code == 400
    assert what in response.json()["error"]
    assert response.json()["code"] == "unsupported_endpoint"


def test_every_error_is_a_text(server: Live) -> None:
    for response in (
        server.http.post("/api/nowhere", json={}),
        server.http.get("/api/chat"),
        server.http.post("/api/chat", content=b"{"),
        server.http.post("/api/chat", content=b"{", headers={"content-type": "application/json"}),
        server.http.post("/api/chat", json={}, headers={"content-encoding": "gzip"}),
        server.http.post("/api/chat", json={}, headers={"x-long": "a" * 2**16}),
    ):
        assert response.status_code >= 400
        assert isinstance(response.json()["error"], str)


def test_open_webui_is_answered(server: Live) -> None:
    """As its Ollama connection sends a chat with its builtin tools, rebuilt from its source."""
    (model,) = server.http.get("/api/tags").json()["models"]
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 42, "num_predict": 64, "num_ctx": 512, "repeat_last_n": 64}
    body = {
        "model": model["model"],
        "messages": MESSAGES,
        "stream": True,
        "options": {**options, "stop": [], "tfs_z": 1, "num_keep": 24, "use_mmap": True, "num_gpu": 50},
        "keep_alive": "5m",
        "think": False,
        "tools": [],
        "metadata": {"chat_id": "a", "features": {"web_search": False}},
    }
    *pieces, last = lines(server, **body)
    assert pieces
    assert last["done_reason"] == "stop"


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/api/chat", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()
    assert message in error["error"]
    assert error["param"] == param


@pytest.mark.parametrize(("fields", "param", "message"), BAD_PROMPTS, ids=lambda value: str(value)[:60])
def test_refuses_prompts(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/api/generate", json={"prompt": "a", **fields})
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]
    assert response.json()["param"] == param
