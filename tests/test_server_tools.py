"""Tools as clients send them, over a real socket: with a template that knows them, and with one that does not."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest

from tests.live import Live, live
from tests.synthetic import DREAM_IDS, edit_json, synthetic_dream, synthetic_llada, write_json
from unmask.server.tools import hermes

MODEL = "tiny"
POSITIONS = 2048
TAGS = {text: len(DREAM_IDS) + min(DREAM_IDS.values()) + i for i, text in enumerate(("<tool_call>", "</tool_call>"))}
# Of Qwen's kind: it lists the tools, and writes calls and their results itself.
TEMPLATE = (
    "{% if tools %}TOOLS{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
COUNT = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 40}}, "required": ["n"]}
SCHEMAS: dict[str, dict[str, Any]] = {"weather": WEATHER, "count": COUNT, "now": {"type": "object", "maxProperties": 0}}


def tool(name: str, **changes: Any) -> dict[str, Any]:
    function = {"name": name, "description": f"does {name}", "parameters": SCHEMAS.get(name, {}), **changes}
    return {"type": "function", "function": function}


TOOLS = [tool("weather"), tool("count"), {"type": "function", "function": {"name": "now"}}]
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "tools": TOOLS,
    "max_tokens": 160,
    "seed": 1,
}
CALLED: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "count", "arguments": '{"n": 3}'}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "1 2 3"},
]
# As Open WebUI's current default sends them with every message, rebuilt from its source.
OPEN_WEBUI: dict[str, Any] = {
    "stream": True,
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "stream_options": {"include_usage": True},
    "tools": [
        tool("get_current_timestamp", parameters={"type": "object", "properties": {}, "required": []}),
        tool(
            "calculate_timestamp",
            parameters={
                "type": "object",
                "properties": {
                    name: {"type": "integer", "default": 0, "description": name} for name in ("days_ago", "weeks_ago")
                },
                "required": [],
            },
        ),
    ],
    "metadata": {"user_id": "a", "chat_id": "b", "message_id": "c", "session_id": "d", "function_calling": "native"},
}
# What its page adds where it asks a server directly, from the browser.
FROM_THE_PAGE: dict[str, Any] = {
    "params": {},
    "tool_servers": [],
    "tool_ids": ["a"],
    "filter_ids": [],
    "files": None,
    "features": {"voice": False, "image_generation": False, "code_interpreter": False, "web_search": False},
    "variables": {"{{USER_NAME}}": "a", "{{CURRENT_DATE}}": "2026-01-01"},
    "model_item": {"id": MODEL, "object": "model", "owned_by": "unmask", "info": {"params": {}}},
    "session_id": "a",
    "chat_id": "b",
    "id": "c",
    "parent_id": None,
    "background_tasks": {"title_generation": True, "tags_generation": True, "follow_up_generation": True},
}
# What it asks after the first answer of a chat.
TITLE: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "### Task:\nGenerate a concise title."}],
    "stream": False,
    "max_completion_tokens": 1000,
    "metadata": {"task": "title_generation", "task_body": {"chat_id": "b"}, "chat_id": "b"},
}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "tools of type 'web_search' are not supported"),
    ({"tools": [tool("a"), tool("a")]}, "tools", "two functions named 'a'"),
    ({"tools": [tool("")]}, "tools.0.function.name", "at least 1 character"),
    ({"tools": [tool("a", parameters={"type": "array"})]}, "tools.0.function.parameters", "schema of an object"),
    ({"tools": [tool("a", strict=True, parameters={"not": {}})]}, "tools", "'not', which is not supported"),
    ({"tools": None, "tool_choice": "required"}, "tool_choice", "send the tools"),
    ({"tool_choice": {"type": "function", "function": {"name": "b"}}}, "tool_choice", "'tools' has 'weather', 'count'"),
    ({"tool_choice": "always"}, "tool_choice", "none, auto, required, or {"),
    ({"tool_choice": "required", "max_tokens": 20}, "tools", "raise max_tokens"),
    ({"scheduler": "credit"}, "tools", "choose another"),
    ({"diffusing": True, "stream": True}, "diffusing", "exclude each other"),
    (
        {"messages": [{"role": "user", "content": "a", "tool_calls": CALLED[1]["tool_calls"]}]},
        "messages.0.tool_calls",
        "is not for the role 'user'",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}]},
        "messages.0.tool_calls.0.function.arguments",
        "the text of a JSON object",
    ),
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_dream(tmp_path_factory.mktemp("model") / MODEL, max_position_embeddings=POSITIONS)
    with_tags(folder)
    (folder / "tools.jinja").write_text(TEMPLATE)
    with live(folder, chat_template=str(folder / "tools.jinja")) as running:
        yield running


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / MODEL, max_sequence_length=POSITIONS)
    with live(folder, default_max_tokens=160) as running:
        yield running


def with_tags(folder: Path) -> None:
    """Give a vocabulary Qwen's tags, which are tokens and texts."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    write_json(folder / "added_tokens.json", {**DREAM_IDS, **TAGS})
    known = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    added = {str(id): {"content": text, **plain} for text, id in TAGS.items()}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={**known, **added})


@contextmanager
def wanting(server: Live, text: str, much: float) -> Iterator[None]:
    """Have the model want the first token of a text more than it does."""
    model = server.app.state.backend.model
    head, (token, *_) = model.network.head.forward, model.tokenizer.encode(text)

    def biased(hidden: Any) -> Any:
        logits = head(hidden)
        logits[..., token] += much
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.network.head, "forward", biased)
        yield


def client_of(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def prompt_of(server: Live, **body: Any) -> str:
    """The prompt that a chat comes to."""
    asked = {**ASKED, "max_tokens": 1, "return_token_ids": True, **body}
    response = server.http.post("/v1/chat/completions", json=asked)
    assert response.status_code == 200, response.text
    text: str = server.http.post("/detokenize", json={"tokens": response.json()["prompt_token_ids"]}).json()["prompt"]
    return text


def check(calls: Any) -> None:
    """Each is a call of a known tool whose arguments its schema accepts."""
    assert calls
    for call in calls:
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    assert len({call.id for call in calls}) == len(calls)


@pytest.mark.parametrize("name", ["qwen", "llada"])
def test_a_call_that_must_come_fits_its_schema(name: str, request: pytest.FixtureRequest) -> None:
    client = client_of(request.getfixturevalue(name))
    for seed, scheduler in enumerate(("topk", "remdm")):
        fields = {"seed": seed, "temperature": float(seed % 2), "extra_body": {"scheduler": scheduler}}
        for wanted in SCHEMAS:
            choice: Any = {"type": "function", "function": {"name": wanted}}
            completion = client.chat.completions.create(**{**ASKED, **fields}, tool_choice=choice)
            (answer,) = completion.choices
            assert answer.finish_reason == "tool_calls"
            assert answer.message.content is None
            check(answer.message.tool_calls)
            assert [call.function.name for call in answer.message.tool_calls or ()] == [wanted]
        required = client.chat.completions.create(**{**ASKED, **fields}, tool_choice="required")
        check(required.choices[0].message.tool_calls)


@pytest.mark.slow
def test_the_model_decides_and_its_calls_fit(qwen: Live) -> None:
    client = client_of(qwen)
    free = client.chat.completions.create(**ASKED, temperature=1)
    assert free.choices[0].message.tool_calls is None
    assert free.choices[0].message.content
    with wanting(qwen, "<tool_call>", 8.0):
        for seed in range(2):
            asked: Any = {**ASKED, "seed": seed, "temperature": 1}
            whole = client.chat.completions.create(**asked)
            (answer,) = whole.choices
            assert answer.finish_reason == "tool_calls"
            check(answer.message.tool_calls)
            chunks = list(client.chat.completions.create(**asked, stream=True))
            deltas = [chunk.choices[0].delta for chunk in chunks]
            assert "".join(delta.content or "" for delta in deltas) == (answer.message.content or "")
            pieces = [call for delta in deltas for call in delta.tool_calls or ()]
            assert [piece.index for piece in pieces] == list(range(len(pieces)))
            assert [
                (piece.function and piece.function.name, piece.function and piece.function.arguments)
                for piece in pieces
            ] == [(call.function.name, call.function.arguments) for call in answer.message.tool_calls or ()]
            assert chunks[-1].choices[0].finish_reason == "tool_calls"
            assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


@pytest.mark.slow
def test_one_call_where_several_are_not_wanted(qwen: Live) -> None:
    client, counts = client_of(qwen), set()
    with wanting(qwen, "<|endoftext|>", -30.0):
        for seed in range(2):
            asked: Any = {**ASKED, "seed": seed, "tool_choice": "required", "max_tokens": 300}
            several = client.chat.completions.create(**asked).choices[0].message.tool_calls
            check(several)
            counts.add(len(several or ()))
            single = client.chat.completions.create(**asked, parallel_tool_calls=False).choices[0].message.tool_calls
            assert len(single or ()) == 1
    assert max(counts) > 1


def test_a_call_without_room_ends_by_its_length(qwen: Live) -> None:
    with wanting(qwen, "<tool_call>", 30.0):
        completion = client_of(qwen).chat.completions.create(**{**ASKED, "max_tokens": 12})
    assert completion.choices[0].finish_reason == "length"
    assert not completion.choices[0].message.tool_calls


def test_a_form_is_kept_where_nothing_is_called(qwen: Live) -> None:
    client, form = client_of(qwen), {"type": "json_schema", "json_schema": {"name": "count", "schema": COUNT}}
    asked: Any = {**ASKED, "response_format": form}
    plain = client.chat.completions.create(**asked).choices[0]
    assert plain.finish_reason == "stop"
    jsonschema.validate(json.loads(plain.message.content or ""), COUNT)
    streamed = "".join(
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)
    )
    assert streamed == plain.message.content
    with wanting(qwen, "<tool_call>", 30.0):
        check(client.chat.completions.create(**asked).choices[0].message.tool_calls)


def test_tools_reach_a_template_that_knows_them(qwen: Live) -> None:
    prompt = prompt_of(qwen, messages=CALLED)
    assert prompt.count('"name": "weather"') == 1
    assert prompt.startswith("TOOLS")
    assert '<tool_call>\n{"name": "count", "arguments": {"n": 3}}\n</tool_call><|im_end|>' in prompt
    assert "<|im_start|>tool\n1 2 3<|im_end|>" in prompt
    assert "TOOLS" not in prompt_of(qwen, messages=CALLED, tool_choice="none")


def test_other_models_get_tools_as_texts(llada: Live) -> None:
    prompt = prompt_of(llada, messages=[{"role": "system", "content": "Be brief."}, *CALLED])
    assert "Be brief.\n\n" + hermes.EXPLAINED in prompt
    assert '{"name": "weather", "description": "does weather", "parameters": {"type": "object",' in prompt
    assert '<tool_call>\n{"name": "count", "arguments": {"n": 3}}\n</tool_call><|eot_id|>' in prompt
    assert "user<|end_header_id|>\n\n<tool_response>\n1 2 3\n</tool_response>" in prompt
    assert prompt_of(llada, messages=CALLED).startswith("<|startoftext|><|start_header_id|>system")


def test_schemas_that_cannot_be_held_are_told(qwen: Live) -> None:
    odd = [tool("count"), tool("odd", parameters={"type": "object", "properties": {"a": {"not": {}}}})]
    completion = client_of(qwen).chat.completions.create(**{**ASKED, "tools": odd}, tool_choice="required")
    assert (completion.model_extra or {})["diffusion"]["loose_tools"] == ["odd"]
    for call in completion.choices[0].message.tool_calls or ():
        assert isinstance(json.loads(call.function.arguments), dict)


def test_choices_and_usage_count_each_answer(qwen: Live) -> None:
    asked: Any = {**ASKED, "tool_choice": "required", "temperature": 1}
    together = client_of(qwen).chat.completions.create(**asked, n=3)
    alone = [client_of(qwen).chat.completions.create(**{**asked, "seed": 1 + i}) for i in range(3)]
    assert [len(choice.message.tool_calls or ()) for choice in together.choices] == [
        len(one.choices[0].message.tool_calls or ()) for one in alone
    ]
    assert together.usage is not None
    assert together.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone if one.usage)
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens


@pytest.mark.slow
def test_open_webui_is_answered(llada: Live, tmp_path: Path) -> None:
    for body in (OPEN_WEBUI, OPEN_WEBUI | FROM_THE_PAGE, TITLE):
        response = llada.http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
    with live("llada-nano", ignore_tools=True, default_max_tokens=32) as nano:
        for body in (OPEN_WEBUI, OPEN_WEBUI | FROM_THE_PAGE):
            response = nano.http.post("/v1/chat/completions", json={**body, "model": "llada-nano"})
            assert response.status_code == 200, response.text
            assert response.text.endswith("data: [DONE]\n\n")
            *_, usage, _ = response.text.strip().split("\n\n")
            assert json.loads(usage.removeprefix("data: "))["usage"]["prompt_tokens"] > 0
        refused = nano.http.post("/v1/chat/completions", json={**ASKED, "model": None, "tool_choice": "required"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice")
        assert "--ignore-tools" in refused.json()["error"]["message"]


@pytest.mark.parametrize("wrong", ['{"a": "\\ud800"}', '{"a": NaN}', "{" * 5000], ids=lambda text: text[:20])
def test_refuses_calls_that_are_not_json(qwen: Live, wrong: str) -> None:
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": wrong}}]}
    response = qwen.http.post("/v1/chat/completions", json={**ASKED, "messages": [called]})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "messages.0.tool_calls.0.function.arguments"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_arguments_are_an_object_whatever_the_schema_allows_beside(qwen: Live, path: str) -> None:
    odd = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"n": {"const": 1}}, "required": ["n"]}]}
    asked: dict[str, Any] = {"messages": ASKED["messages"], "max_tokens": 160, "seed": 1, "temperature": 1}
    if path == "/v1/messages":
        asked |= {"tools": [{"name": "odd", "input_schema": odd}], "tool_choice": {"type": "any"}}
    else:
        asked |= {"tools": [tool("odd", parameters=odd)], "tool_choice": "required"}
    response = qwen.http.post(path, json=asked)
    assert response.status_code == 200, response.text
    answer = response.json()
    if path == "/v1/messages":
        assert all(block["input"] == {"n": 1} for block in answer["content"])
    else:
        called = answer["choices"][0]["message"]["tool_calls"]
        assert all(json.loads(call["function"]["arguments"]) == {"n": 1} for call in called)


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(qwen: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = qwen.http.post("/v1/chat/completions", json={**ASKED, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
