"""`/v1/responses` as the official client sees it, over a real socket."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from pydantic import BaseModel

from tests.live import ANSWER, QUESTION, Live, live
from tests.synthetic import synthetic_dream
from tests.test_server_tools import POSITIONS, SCHEMAS, TEMPLATE, wanting, with_tags

MODEL = "llada-nano"
ASKED: dict[str, Any] = {"model": MODEL, "input": QUESTION}
FAST = {"scheduler": "threshold", "block_length": 8}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "name": name, "description": "", "parameters": schema, "strict": True}
    for name, schema in SCHEMAS.items()
]
CALLING: dict[str, Any] = {"model": "tiny", "input": "hi", "tools": TOOLS, "max_output_tokens": 160}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "count", "arguments": '{"n": 3}'}
HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "So:", "annotations": []}],
    },
    CALL,
    {**CALL, "call_id": "call_2"},
    {"type": "function_call_output", "call_id": "call_1", "output": "1 2 3"},
    {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "1 2 3"}]},
]
OF_TEXT = [
    *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
    *("response.output_text.delta", "response.output_text.done", "response.content_part.done"),
    *("response.output_item.done", "response.completed"),
]
OF_A_CALL = [
    *("response.created", "response.in_progress", "response.output_item.added"),
    *("response.function_call_arguments.delta", "response.function_call_arguments.done"),
    *("response.output_item.done", "response.completed"),
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation in 'input'"),
    ({"conversation": "conv_1"}, "conversation", "keeps no answers"),
    ({"background": True}, "background", "keeps no answers"),
    ({"input": []}, "input", "a text, or a list of items"),
    ({"input": [{"type": "reasoning"}]}, "input", "holds no messages"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type", "send the item itself"),
    ({"input": [{"type": "computer_call"}]}, "input.0.type", "items of type 'computer_call' are not supported"),
    ({"input": [{"role": "user"}]}, "input.0.content", "must be a text"),
    ({"input": [{**CALL, "arguments": "["}]}, "input.0.arguments", "the text of a JSON object"),
    ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input.0.output", "is missing; give it"),
    ({"input": "a" * 9000}, "input", "maximum context length"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "tools of type 'web_search' are not supported"),
    ({"tool_choice": "required"}, "tool_choice", "send the tools"),
    ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
    ({"max_output_tokens": 5, "max_tokens": 6}, "max_output_tokens", "differ"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format", "need each other"),
    ({"text": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, "text", "'not', which is not supported"),
    ({"top_logprobs": 3}, "top_logprobs", "use /v1/chat/completions"),
    ({"include": ["message.output_text.logprobs"]}, "include", "use /v1/chat/completions"),
    ({"scheduler": "nope"}, "scheduler", "unknown scheduler"),
]


class Count(BaseModel):
    n: int


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live(MODEL) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_dream(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=POSITIONS)
    with_tags(folder)
    (folder / "tools.jinja").write_text(TEMPLATE)
    with live(folder, chat_template=str(folder / "tools.jinja")) as running:
        yield running


@pytest.fixture(scope="module")
def caller(tiny: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_text(client: openai.OpenAI, server: Live) -> None:
    response = client.responses.create(**ASKED, store=True, metadata={"a": "b"}, extra_body=FAST)
    assert (response.output_text, response.status, response.id[:5]) == (ANSWER, "completed", "resp_")
    assert response.metadata == {"a": "b"}
    native = server.generate(messages=[{"role": "user", "content": QUESTION}], **FAST)
    assert response.usage is not None
    assert response.usage.total_tokens == native["usage"]["total_tokens"]
    assert (response.model_extra or {})["diffusion"]["forward_passes"] == native["diffusion"]["forward_passes"]


def test_a_stream_has_openais_events_and_adds_up(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(**ASKED, stream=True, extra_body=FAST))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert list(dict.fromkeys(event.type for event in events)) == OF_TEXT
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 2
    assert "".join(deltas) == ANSWER
    assert events[-1].response.output_text == ANSWER
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {events[-1].response.output[0].id}
    assert "diffusion" in events[-1].response.model_extra
    with client.responses.stream(**ASKED, extra_body=FAST) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == ANSWER


def test_what_does_not_fit_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(**ASKED, max_output_tokens=4)
    assert (response.status, response.output[0].status) == ("incomplete", "incomplete")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    *_, last = client.responses.create(**ASKED, max_output_tokens=4, stream=True)
    assert last.type == "response.incomplete"


def test_a_form(client: openai.OpenAI) -> None:
    response = client.responses.parse(**ASKED, text_format=Count)
    assert isinstance(response.output_parsed, Count)


def test_a_fault_in_the_middle_ends_a_stream_with_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError) as raised:
        list(client.responses.create(**ASKED, stream=True, extra_body={"timeout": 0.2, "max_tokens": 400}))
    assert raised.value.code == "timeout"


def test_calls_fit_their_schemas_whole_and_streamed(caller: openai.OpenAI) -> None:
    for name, schema in SCHEMAS.items():
        choice: Any = {"type": "function", "name": name}
        response = caller.responses.create(**CALLING, tool_choice=choice)
        (call,) = response.output
        assert call.type == "function_call"
        assert (call.name, response.status) == (name, "completed")
        jsonschema.validate(json.loads(call.arguments), schema)
        events: list[Any] = list(caller.responses.create(**CALLING, tool_choice=choice, stream=True))
        assert [event.type for event in events] == OF_A_CALL
        assert events[3].delta == events[-1].response.output[0].arguments == call.arguments


def test_a_text_and_then_a_call(tiny: Live, caller: openai.OpenAI) -> None:
    with wanting(tiny, "<tool_call>", 5.0):
        for seed in range(40):
            asked: Any = {**CALLING, "temperature": 1, "extra_body": {"seed": seed}}
            kinds = [item.type for item in caller.responses.create(**asked).output]
            if kinds == ["message", "function_call"]:
                break
        assert kinds == ["message", "function_call"]
        events: list[Any] = list(caller.responses.create(**asked, stream=True))
    assert [item.type for item in events[-1].response.output] == kinds
    added = [event.output_index for event in events if event.type == "response.output_item.added"]
    assert added == [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1]


def test_a_conversation_reaches_the_template(tiny: Live) -> None:
    asked = {**CALLING, "input": HISTORY, "instructions": "Be brief.", "max_output_tokens": 1}
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "So:", "tool_calls": [call("call_1"), call("call_2")]},
        {"role": "tool", "content": "1 2 3", "tool_call_id": "call_1"},
        {"role": "tool", "content": "1 2 3", "tool_call_id": "call_2"},
    ]
    tools = [{"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}} for tool in TOOLS]
    chat = {"messages": said, "tools": tools, "max_tokens": 1}
    same = tiny.http.post("/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"]
    assert tiny.http.post("/v1/responses", json=asked).json()["usage"]["input_tokens"] == same


def call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "count", "arguments": '{"n": 3}'}}


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/v1/responses", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
