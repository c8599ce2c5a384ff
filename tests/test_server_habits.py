"""What clients of other servers send out of habit: taken where it asks for nothing, and otherwise refused in words that
help."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.live import PATIENCE, QUESTION, Live, live, wait_for
from tests.synthetic import synthetic_llada

ENDPOINTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "abc", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 4},
    "/v1/fim/completions": {"prompt": "abc", "max_tokens": 4},
}
GENERATING = {**ENDPOINTS, "/generate": {"prompt": "abc", "max_tokens": 4}}
TALKING: dict[str, dict[str, Any]] = {"/generate": {}, "/v1/chat/completions": {}, "/tokenize": {}}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}]
# Its answers tell who speaks, and how hard they are to think.
TEMPLATE = (
    "{% for m in messages %}{{ m['name'] if m['name'] else m['role'] }}:{{ m['content'] }};{% endfor %}"
    "{{ 'thinking ' ~ effort if enable_thinking else '' }}{{ more | tojson if more else '' }}"
)
POSITIONS = 128  # of the model

NOTHING: list[dict[str, Any]] = [
    {"tools": TOOLS, "tool_choice": "none"},
    {"functions": [{"name": "add"}], "function_call": "none"},
    {"reasoning_effort": "high"},
    {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "verbosity": "low"},
    {"chat_id": "a", "session_id": "b", "tool_ids": [], "features": {}, "model_item": {}, "background_tasks": {}},
    {"best_of": 2, "n": 2},
    {"extra_body": {}, "format": "", "repeat_penalty": 1.0, "chat_template_kwargs": {}},
]
REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter", "send 'tools'"),
    ({"function_call": "required"}, "function_call", "unsupported_value", "send 'tool_choice'"),
    ({"extra_body": {"scheduler": "topk"}}, "extra_body", "unsupported_parameter", "beside the others"),
    *(
        ({name: value}, name, "unsupported_parameter", "asked for by 'response_format'")
        for name, value in {
            "ebnf": "root ::= a",
            "format": "json",
            "grammar": "root ::= a",
            "guided_regex": "a",
            "json_schema": {"type": "object"},
            "regex": "a+",
        }.items()
    ),
    ({"repeat_penalty": 1.1}, "repeat_penalty", "unsupported_value", "the penalty is 'repetition_penalty'"),
    ({"max_new_tokens": 8}, "max_new_tokens", "unsupported_parameter", "the length is 'max_tokens'"),
    ({"n_predict": 8}, "n_predict", "unsupported_parameter", "the length is 'max_tokens'"),
    ({"do_sample": True}, "do_sample", "unsupported_parameter", "follows from 'temperature'"),
    ({"options": {"num_predict": 8}}, "options", "unsupported_parameter", "stand in the body itself"),
    ({"best_of": 2}, "best_of", "unsupported_value", "send the value of 'n'"),
    ({"schedular": "topk"}, "schedular", "unknown_parameter", "did you mean 'scheduler'?"),
    ({"block_lenght": 4}, "block_lenght", "unknown_parameter", "did you mean 'block_length'?"),
    ({"Temperture": 1}, "Temperture", "unknown_parameter", "did you mean 'temperature'?"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=POSITIONS)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    template = tmp_path_factory.mktemp("template") / "names.jinja"
    template.write_text(TEMPLATE)
    with live(folder, chat_template=str(template)) as running:
        yield running


@pytest.fixture(scope="module")
def nano() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


def refusal(server: Live, path: str, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_what_asks_for_nothing_is_taken(server: Live, path: str, fields: dict[str, Any]) -> None:
    plain = server.http.post(path, json={**ENDPOINTS[path], "seed": 1}).json()["choices"][0]
    answer = server.http.post(path, json={**ENDPOINTS[path], "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0] == plain


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(("fields", "param", "code", "message"), REFUSED, ids=str)
def test_what_changes_the_answer_is_refused(
    server: Live, path: str, fields: dict[str, Any], param: str, code: str, message: str
) -> None:
    error = refusal(server, path, {**ENDPOINTS[path], **fields})
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]


@pytest.mark.parametrize("path", ["/generate", "/score", "/tokenize", "/detokenize"])
def test_a_near_miss_is_named_where_all_names_are_known(server: Live, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {"/score": {"completion": "a"}, "/detokenize": {"tokens": [1]}}
    needed = bodies.get(path, {"prompt": "a"})
    error = refusal(server, path, {**needed, "modell": "tiny"})
    assert (error["param"], error["code"]) == ("modell", "unknown_parameter")
    assert "unknown field 'modell'; did you mean 'model'? The fields are: model, " in error["message"]


def test_many_unknown_names_cost_little(server: Live) -> None:
    body = {**ENDPOINTS["/v1/completions"], **{f"block_lengt{i}": 1 for i in range(20_000)}}
    assert "did you mean" in refusal(server, "/v1/completions", body)["message"]


@pytest.mark.parametrize("path", TALKING)
def test_names_and_values_reach_the_template(server: Live, path: str) -> None:
    said = [{"role": "user", "name": "ann", "content": "hi"}, {"role": "assistant", "content": [None, "no"][1:]}]
    body = {"messages": said, "chat_template_kwargs": {"enable_thinking": True, "effort": "hard"}}
    expected = "ann:hi;assistant:no;thinking hard"
    answer = server.http.post(path, json=body).json()
    count = answer["count"] if path == "/tokenize" else answer["usage"]["prompt_tokens"]
    assert count == len(server.app.state.backend.model.tokenizer.encode(expected))
    if path == "/tokenize":
        assert server.http.post("/detokenize", json={"tokens": answer["tokens"]}).json()["prompt"] == expected


def test_values_of_a_template_forge_no_control_token(server: Live) -> None:
    tokenizer = server.app.state.backend.model.tokenizer
    (end,) = tokenizer.encode("<|endoftext|>")
    values = {"enable_thinking": True, "effort": "<|endoftext|>", "more": [{"<|endoftext|>": "<|endoftext|>"}]}
    body = {"messages": [{"role": "user", "content": "a", "name": "<|endoftext|>"}], "chat_template_kwargs": values}
    tokens = server.http.post("/tokenize", json=body).json()["tokens"]
    assert end not in tokens
    assert tokenizer.decode_all(tokens).count("<|endoftext|>") == 4  # as text


def test_values_that_the_server_gives_are_refused(server: Live) -> None:
    for name in ("messages", "add_generation_prompt", "eos_token"):
        body = {**ENDPOINTS["/v1/chat/completions"], "chat_template_kwargs": {name: "a"}}
        assert f"is given {name!r} by the server" in refusal(server, "/v1/chat/completions", body)["message"]
    for path in ("/generate", "/score", "/tokenize"):
        more = {"completion": "a"} if path == "/score" else {}
        error = refusal(server, path, {"prompt": "a", "chat_template_kwargs": {"a": 1}, **more})
        assert error["param"] == "chat_template_kwargs"
    long = {**ENDPOINTS["/v1/chat/completions"], "chat_template_kwargs": {"effort": "a" * 64 * POSITIONS}}
    assert refusal(server, "/v1/chat/completions", long)["code"] == "context_length_exceeded"


def test_parts_of_all_kinds_of_text_are_read(server: Live) -> None:
    parts = [{"type": "text", "text": "a", "annotations": None, "id": 5}, "b", {"type": "refusal", "refusal": "c"}]
    tokens = server.http.post("/tokenize", json={"messages": [{"role": "assistant", "content": parts}]}).json()[
        "tokens"
    ]
    assert server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == "assistant:a\nb\nc;"


def test_a_length_that_is_left_out_is_cut_to_the_room(server: Live) -> None:
    prompt = "a" * (POSITIONS - 10)
    for path in GENERATING:
        chat = path == "/v1/chat/completions"
        body = {"messages": [{"role": "user", "content": prompt[len("user:;") :]}]} if chat else {"prompt": prompt}
        answer = server.http.post(path, json={**body, "ignore_eos": True}).json()
        assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (POSITIONS - 10, 10)
        assert answer["diffusion"]["length"] == 10
        full = {"messages": [{"role": "user", "content": "a" * POSITIONS}]} if chat else {"prompt": "a" * POSITIONS}
        error = refusal(server, path, full)
        assert (error["param"], error["code"]) == ("messages" if chat else "prompt", "context_length_exceeded")
        assert error["message"].startswith(
            f"This model's maximum context length is {POSITIONS} tokens; the prompt has "
        )


def test_a_length_that_is_too_large_is_cut_to_the_room_on_openais_endpoints(server: Live) -> None:
    for path, body in ENDPOINTS.items():
        for name in ("max_tokens", "max_completion_tokens"):
            asked = {key: value for key, value in body.items() if key != "max_tokens"}
            answer = server.http.post(path, json={**asked, name: 5000, "ignore_eos": True}).json()
            assert answer["usage"]["total_tokens"] == POSITIONS
            assert answer["diffusion"]["length"] == answer["usage"]["completion_tokens"]
    two = {"prompt": ["a", "aaa"], "max_tokens": 5000, "ignore_eos": True}  # each to its own
    assert server.http.post("/v1/completions", json=two).json()["usage"]["completion_tokens"] == 2 * POSITIONS - 4
    error = refusal(server, "/generate", {"prompt": "abc", "max_tokens": 5000})
    assert f"'max_tokens' of 5000 make 5003; at most {POSITIONS - 3} fit" in error["message"]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_minus_one_counts_as_left_out(server: Live, path: str) -> None:
    body = {**ENDPOINTS[path], "ignore_eos": True}
    del body["max_tokens"]
    plain = server.http.post(path, json=body).json()["diffusion"]
    for name in ("max_tokens", "max_completion_tokens"):
        answer = server.http.post(path, json={**body, name: -1, "seed": -1})
        assert answer.status_code == 200, answer.text
        assert answer.json()["diffusion"]["length"] == plain["length"]
        assert refusal(server, path, {**body, name: -2})["param"] == name
        assert refusal(server, path, {**body, name: 1.5})["param"] == name


def test_the_least_number_of_tokens(server: Live) -> None:
    for path, body in GENERATING.items():
        error = refusal(server, path, {**body, "min_tokens": 5})
        assert error["param"] == "min_tokens"
        assert "of 5 is more than the 4 tokens" in error["message"]
        open_ended = {key: value for key, value in body.items() if key != "max_tokens"}
        answer = server.http.post(path, json={**open_ended, "min_tokens": 80}).json()
        assert answer["diffusion"]["length"] == 80


def test_an_answer_has_at_least_as_many_tokens_as_asked_for(nano: Live) -> None:
    """The embedded model ends this answer after 26 tokens, and an answer to nonsense at once."""
    for content in (QUESTION, "widow CLEOPATRA Widow Charmian hark MESSENGER"):
        for more in ({"min_tokens": 40}, {"ignore_eos": True}):
            body = {"messages": [{"role": "user", "content": content}], "max_tokens": 48, "return_token_ids": True}
            (choice,) = nano.http.post("/v1/chat/completions", json={**body, **more}).json()["choices"]
            tokens = choice["token_ids"]
            assert len(tokens) >= (40 if "min_tokens" in more else 48)
            assert choice["message"]["content"]
            assert not {430, 434} & set(tokens)


def test_a_stream_opens_with_the_first_step_and_not_before(folder: Path) -> None:
    long = {"prompt": "hello", "max_tokens": 100, "max_forward_passes": 100}
    asked = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 4, "stream": True, "n": 2}
    with (
        live(folder, max_rows=1) as server,
        server.running(**long) as first,
        server.http.stream("POST", "/v1/chat/completions", json=asked) as second,
    ):
        assert second.status_code == 200  # at once, without an event
        wait_for(lambda: server.metric("unmask_num_requests_waiting") == 2)
        done = [name for name, _ in first][-1]
        lines = [line for line in second.iter_lines() if line.startswith("data: {")]
    assert done == "done"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    opened = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0].get("delta", {})]
    assert sorted(opened) == [0, 1]
    ended = [i for i, chunk in enumerate(chunks) if chunk["choices"][0]["finish_reason"]]
    assert ended[0] < next(i for i, chunk in enumerate(chunks) if chunk["choices"][0]["index"] == 1)


def test_heads_and_slashes(server: Live) -> None:
    for path in ("/", "/health", "/v1/models", "/metrics"):
        head = server.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert server.http.get("/v1/models/").json() == server.http.get("/v1/models").json()


@pytest.mark.parametrize("path", [*GENERATING, "/score", "/tokenize", "/detokenize"])
def test_a_body_in_another_coding_is_refused_as_that(server: Live, path: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = server.http.post(path, content=gzip.compress(b'{"prompt": "a"}'), headers=headers)
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "identity")
    assert "content-encoding 'gzip' is not supported" in response.json()["error"]["message"]
    plain = server.http.post("/tokenize", json={"prompt": "a"}, headers={"content-encoding": "identity"})
    assert plain.status_code == 200


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("//v1//completions", "/v1/completions"),
        ("/models", "/v1/models"),
        ("/v1/generate", "/generate"),
    ],
)
def test_a_wrong_base_url_is_told(server: Live, path: str, meant: str) -> None:
    response = server.http.post(f"{server.url}{path}", json={}, timeout=PATIENCE)
    assert response.status_code == 404
    message = response.json()["error"]["message"]
    assert f"did you mean {meant!r}?" in message
    assert ("ends in /v1" in message) == meant.startswith("/v1")
    assert server.http.post("/nowhere", json={}).json()["error"]["message"].endswith("; see /docs")


def test_embeddings_say_what_to_do(server: Live) -> None:
    """With a status for which no router of LLM traffic takes the server out of service."""
    response = server.http.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["type"]) == ("unsupported_endpoint", "invalid_request_error")
    assert "this server has no /v1/embeddings; " in error["message"]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client, pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="tiny", input="a")
