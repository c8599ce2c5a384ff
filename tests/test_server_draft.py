"""`prediction` as OpenAI's client sends it, over a real socket."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.live import ANSWER, QUESTION, Live, live

MODEL = "llada-nano"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FORM = {"response_format": {"type": "json_object"}}
SAID = {"type": "content", "content": ANSWER}
PARTS = [{"type": "text", "text": ANSWER[:9]}, {"type": "text", "text": ANSWER[9:]}]
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("/v1/chat/completions", {"prediction": ANSWER}, "prediction", "must be an object"),
    ("/v1/chat/completions", {"prediction": {"type": "text", "content": "a"}}, "prediction.type", "'content'"),
    ("/v1/chat/completions", {"prediction": {"type": "content"}}, "prediction.content", "is missing"),
    ("/v1/chat/completions", {"prediction": {"type": "content", "content": 3}}, "prediction.content", "parts"),
    ("/v1/chat/completions", {"prediction": SAID, "tools": [TOOL]}, "prediction", "'tools' exclude each other"),
    ("/v1/chat/completions", {"prediction": SAID, **FORM}, "response_format", "'prediction' may not have that form"),
    ("/v1/chat/completions", {"prediction": {**SAID, "content": "a" * 99999}}, "prediction", "shorten it"),
    ("/v1/completions", {"prediction": SAID}, "prediction", "use /v1/chat/completions"),
    ("/generate", {"prediction": SAID, "canvas": "a [MASK]"}, "prediction", "not for a canvas"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.mark.parametrize("content", [ANSWER, PARTS], ids=["text", "parts"])
def test_the_official_client(client: openai.OpenAI, content: Any) -> None:
    plain = client.chat.completions.create(**ASKED, model=MODEL)
    quick = client.chat.completions.create(**ASKED, model=MODEL, prediction={"type": "content", "content": content})
    assert [one.choices[0].message.content for one in (plain, quick)] == [ANSWER, ANSWER]
    assert plain.usage is not None
    assert plain.usage.completion_tokens_details is None
    assert quick.usage is not None
    assert quick.usage.completion_tokens_details is not None
    details = quick.usage.completion_tokens_details
    assert details.accepted_prediction_tokens == quick.usage.completion_tokens
    assert details.rejected_prediction_tokens == 0
    told = [one.diffusion for one in (plain, quick)]
    assert told[1]["forward_passes"] < told[0]["forward_passes"] / 4
    assert "accepted_prediction_tokens" not in told[0]


def test_a_stream_never_takes_back_what_it_sent(client: openai.OpenAI) -> None:
    wrong = ANSWER.replace("15", "14")
    chunks = list(
        client.chat.completions.create(
            **ASKED,
            model=MODEL,
            prediction={"type": "content", "content": wrong},
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.rejected_prediction_tokens == 2  # the 15 stands twice


def test_the_native_endpoint_tells_what_is_kept(server: Live) -> None:
    body = {"messages": ASKED["messages"], "max_tokens": 64, "block_length": 64}
    events = server.events(**body, prediction=SAID)
    steps, (done,) = ([data for name, data in events if name == wanted] for wanted in ("step", "done"))
    assert steps[0]["revealed"] == []
    assert steps[0]["remasked"] == []
    assert done["text"] == ANSWER
    assert len(steps) == done["diffusion"]["forward_passes"]
    whole = server.generate(**body, prediction=SAID)
    assert whole["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] == 0
    assert "completion_tokens_details" not in server.generate(**body)["usage"]


def test_nothing_predicted_is_no_prediction(server: Live) -> None:
    for prediction in (None, {"type": "content", "content": ""}, {"type": "content", "content": []}):
        response = server.http.post("/v1/chat/completions", json={**ASKED, "prediction": prediction})
        assert response.status_code == 200, response.text
        assert "completion_tokens_details" not in response.json()["usage"]


def test_several_choices_each_have_it(server: Live) -> None:
    answer = server.http.post("/v1/chat/completions", json={**ASKED, "prediction": SAID, "n": 2}).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == [ANSWER, ANSWER]
    assert (
        answer["usage"]["completion_tokens_details"]["accepted_prediction_tokens"]
        == (answer["usage"]["completion_tokens"])
    )


@pytest.mark.parametrize(("path", "fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, path: str, fields: dict[str, Any], param: str, message: str) -> None:
    prompt = {"prompt": "hi"} if path != "/v1/chat/completions" else {"messages": ASKED["messages"]}
    response = server.http.post(path, json={**prompt, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], message in error["message"]) == (param, True), error
