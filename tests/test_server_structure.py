"""`response_format` and `structured_outputs` as clients send them, over a real socket."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.live import Live, live
from tests.synthetic import synthetic_llada

MODEL = "tiny"
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 48, "seed": 1}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "json_schema"}}, "response_format", "need each other"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'json_object' or 'json_schema'"),
    ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs", "'grammar' is not supported"),
    ({"structured_outputs": {}}, "structured_outputs", "exactly one of json"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1 item"),
    ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "does not work"),
    ({"structured_outputs": {"regex": "a{50}"}}, "structured_outputs", "raise max_tokens to at least 51"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs", "is no JSON"),
    ({"structured_outputs": {"json": '{"const": NaN}'}}, "structured_outputs", "is no JSON"),
    ({"structured_outputs": {"json": '{"const": 1e999}'}}, "structured_outputs", "inf is not JSON"),
    ({"structured_outputs": {"json": 5}}, "structured_outputs.json", "a JSON schema, or its text"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
        "response_format.json_schema.schema",
        "must be a JSON schema, which is an object, true or false, not 5",
    ),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "response_format.schema", "belongs into"),
    ({"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}}, "structured_outputs", "'uniqueItems'"),
    ({"structured_outputs": {"regex": "a"}, "response_format": FORMAT}, "structured_outputs", "exclude each other"),
    ({"response_format": FORMAT, "ignore_eos": True}, "response_format", "leave one of the two out"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / MODEL)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


class Person(BaseModel):
    name: str
    age: int


def test_the_official_client_parses_a_model(client: openai.OpenAI) -> None:
    completion = client.chat.completions.parse(**ASKED, model=MODEL, response_format=Person)
    assert isinstance(completion.choices[0].message.parsed, Person)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model_extra is not None
    assert completion.model_extra["diffusion"]["forced_tokens"] > 0


def test_any_object(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(**ASKED, model=MODEL, response_format={"type": "json_object"})
    assert isinstance(json.loads(completion.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/generate"])
def test_every_endpoint_in_company(server: Live, path: str) -> None:
    asked = {"prompt": "hi", "max_tokens": 48, "seed": 1} if path != "/v1/chat/completions" else ASKED
    forms: list[dict[str, Any]] = [
        {"response_format": FORMAT},
        {},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"structured_outputs": {"regex": "[a-c]{3}-\\d+"}},
        {"structured_outputs": {"choice": ["yes", "(no)"]}},
        {"response_format": {"type": "text"}},
    ]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda form: server.http.post(path, json={**asked, **form}).json(), forms))
    texts = [text_of(answer) for answer in found]
    assert json.loads(texts[0]).keys() == json.loads(texts[2]).keys() == {"name", "age"}
    assert re.fullmatch(r"[a-c]{3}-\d+", texts[3])
    assert texts[4] in ("yes", "(no)")
    assert texts[1] == texts[5] == text_of(server.http.post(path, json=asked).json())


def text_of(answer: dict[str, Any]) -> str:
    if "text" in answer:
        return str(answer["text"])
    (one,) = answer["choices"]
    return str(one["text"] if "text" in one else one["message"]["content"])


def test_a_stream_is_the_same_text(server: Live) -> None:
    body = {"prompt": "hi", "max_tokens": 48, "seed": 1, "block_length": 8, "response_format": FORMAT}
    whole, events = server.generate(**body), server.events(**body)
    (done,) = [data for name, data in events if name == "done"]
    assert done["text"] == whole["text"]
    revealed = [position for name, data in events if name == "step" for position, *_ in data["revealed"]]
    assert len(revealed) == len(set(revealed))


@pytest.mark.parametrize(("fields", "param", "message"), BAD)
def test_what_cannot_be_kept_is_refused(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/v1/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert message in error["message"]
