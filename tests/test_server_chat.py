"""`/v1/chat/completions` as the official client sees it, with the embedded model over a real socket."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.live import ANSWER, QUESTION, Live, live
from tests.synthetic import synthetic_llada

MODEL = "llada-nano"
ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}]}
FAST = {"scheduler": "threshold", "block_length": 8}
PARTS = {"role": "user", "content": [{"type": "text", "text": one} for one in ("Ann has 2 hats.", "How many?")]}
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "max_completion_tokens": 64,
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "response_format": {"type": "text"},
    "stop": None,
    "store": False,
    "tool_choice": "none",
    "tools": [],
    "top_p": 1,
    "user": "someone",
}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hi"}, "messages", "must be a valid array"),
    ({"messages": [{"role": "function", "content": "a"}]}, "messages.0.role", "send the role 'tool'"),
    ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role", "'assistant' or 'tool'"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", 'a list of parts {"type": "text"'),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content",
        "parts of type 'image_url' are not supported: the model reads text only",
    ),
    ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages.0.content", 'a list of parts {"type"'),
    (
        {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
        "messages.0.tool_calls.0.function",
        "is missing",
    ),
    ({"messages": [{"role": "user", "content": "a", "audio": {"id": "x"}}]}, "messages.0.audio", "reads text only"),
    ({"functions": [{"name": "f"}]}, "functions", "not supported"),
    ({"tool_choice": "required"}, "tool_choice", "send the tools"),
    ({"continue_final_message": True}, "continue_final_message", "not supported"),
    ({"frequency_penalty": 3}, "frequency_penalty", "less than or equal to 2"),
    ({"presence_penalty": True}, "presence_penalty", "must be a valid number, not True"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ; give one of them"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs 'stream': true"),
    ({"canvas": "[MASK]"}, "canvas", "not supported"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI, server: Live) -> None:
    completion = client.chat.completions.create(**ASKED, extra_body=FAST)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert (completion.object, completion.id[:9]) == ("chat.completion", "chatcmpl-")
    native = server.generate(messages=ASKED["messages"], **FAST)
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_none=True) == native["usage"]
    assert (completion.model_extra or {})["diffusion"]["forward_passes"] == native["diffusion"]["forward_passes"]


def test_stream_opens_with_the_role_and_adds_up(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASKED, stream=True, extra_body=FAST))
    first, *middle, _ = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert len(middle) > 2
    assert all(chunk.choices[0].delta.content and chunk.choices[0].delta.role is None for chunk in middle)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {(chunk.id, chunk.object) for chunk in chunks} == {(first.id, "chat.completion.chunk")}
    assert ["diffusion" in (chunk.model_extra or {}) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_stream_ends_with_usage_if_asked(client: openai.OpenAI, server: Live) -> None:
    asked = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}
    *pieces, last = client.chat.completions.create(**asked)
    assert all(piece.usage is None and piece.choices for piece in pieces)
    assert (last.choices, last.object) == ([], "chat.completion.chunk")
    assert last.usage is not None
    assert last.usage.model_dump(exclude_none=True) == server.generate(messages=ASKED["messages"])["usage"]
    raw = server.http.post("/v1/chat/completions", json=asked).text.strip().split("\n\n")
    assert raw[-1] == "data: [DONE]"
    assert all('"usage":null' in line for line in raw[:-2])


def test_choices_take_seeds_in_turn_streaming_and_not(client: openai.OpenAI) -> None:
    hot: dict[str, Any] = {**ASKED, "temperature": 2.0, "max_tokens": 12}
    whole = client.chat.completions.create(**hot, n=3, seed=5)
    texts = [choice.message.content for choice in whole.choices]
    alone = [client.chat.completions.create(**hot, seed=seed).choices[0].message.content for seed in (5, 6, 7)]
    assert texts == alone
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**hot, n=3, seed=5, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    assert whole.usage is not None
    prompt = client.chat.completions.create(**hot, seed=5).usage
    assert prompt is not None
    assert whole.usage.prompt_tokens == prompt.prompt_tokens


def test_stop_ends_the_answer(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**ASKED, stop=["11\n", "absent"], extra_body=FAST).choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER[: ANSWER.index("11\n")], "stop")
    chunks = client.chat.completions.create(**ASKED, stop="11\n", extra_body=FAST, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content


def test_roles_and_parts_reach_the_template(server: Live) -> None:
    tokenizer = server.app.state.backend.model.tokenizer
    said: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        PARTS,
        {"role": "assistant", "content": "2", "refusal": None, "tool_calls": [], "annotations": []},
        {"role": "user", "content": "Sure?"},
    ]
    meant = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Ann has 2 hats.\nHow many?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "Sure?"},
    ]
    for messages in (said, meant):
        answer = server.http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4}).json()
        assert answer["usage"]["prompt_tokens"] == len(tokenizer.chat(meant))
    assert server.generate(messages=said, max_tokens=4)["usage"] == answer["usage"]


def test_names_that_nobody_knows_are_ignored_in_messages_too(server: Live) -> None:
    part = {"type": "text", "text": "2", "cache_control": {"type": "ephemeral"}}
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "1 + 1 =", "name": "ann", "id": "abc", "type": "text"},
        {"role": "assistant", "content": [part], "reasoning_content": "hmm", "function_call": None, "audio": ""},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    meant = [
        {"role": "user", "content": "1 + 1 ="},
        {"role": "assistant", "content": "2"},
        {"role": "assistant", "content": ""},
    ]
    tokens = [server.http.post("/tokenize", json={"messages": messages}).json() for messages in (said, meant)]
    assert tokens[0] == tokens[1]
    answer = server.http.post("/v1/chat/completions", json={"messages": said, "max_tokens": 1})
    assert answer.json()["usage"]["prompt_tokens"] == tokens[0]["count"]
    assert server.generate(messages=said, max_tokens=1)["usage"] == answer.json()["usage"]
    score = server.http.post("/score", json={"messages": said, "completion": "2"}).json()
    assert score["usage"]["prompt_tokens"] == tokens[0]["count"] + len(score["token_ids"])


def test_an_answer_can_be_sent_back(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASKED, extra_body=FAST).choices[0].message
    more = [*ASKED["messages"], answer, {"role": "user", "content": "Thanks."}]
    assert client.chat.completions.create(model=MODEL, messages=more, max_tokens=4).choices[0].message.role


def test_both_names_of_the_length(client: openai.OpenAI) -> None:
    lengths: list[dict[str, Any]] = [{"max_tokens": 5}, {"max_completion_tokens": 5}]
    for length in [*lengths, lengths[0] | lengths[1]]:
        usage = client.chat.completions.create(**ASKED, **length).usage
        assert usage is not None
        assert usage.completion_tokens == 5


def test_neutral_values_are_accepted(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ASKED)
    assert client.chat.completions.create(**ASKED, **NEUTRAL, extra_body={"unheard_of": 1}).choices == plain.choices


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_chat_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/v1/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert message in response.json()["error"]["message"]


def test_steps_are_told_if_asked(client: openai.OpenAI) -> None:
    asked = {**FAST, "return_steps": True}
    whole = client.chat.completions.create(**ASKED, extra_body=asked)
    told = whole.choices[0].model_dump()
    assert whole.usage is not None
    assert len(told["token_steps"]) == len(told["token_confidences"]) == whole.usage.completion_tokens
    *_, last = client.chat.completions.create(**ASKED, extra_body=asked, stream=True)
    assert last.choices[0].model_dump()["token_steps"] == told["token_steps"]


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path / "tiny")
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text())
    del settings["chat_template"]
    config.write_text(json.dumps(settings))
    with live(folder) as server:
        response = server.http.post("/v1/chat/completions", json={"messages": ASKED["messages"]})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "chat_template")
