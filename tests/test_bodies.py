"""No body that is not refused by its size is more than a moment's work, on any endpoint, at the default limits."""

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tests.bodies import BODIES, nested
from tests.live import PATIENCE, Live, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.server.errors import MAX_MESSAGE, MAX_PARAM, BadRequestError
from unmask.server.parse import bodies
from unmask.server.parse.bodies import MAX_NAMES, MAX_VALUES, MOST_BYTES, check_size, default_body_bytes, read_body
from unmask.server.wire.chat import ChatRequest
from unmask.server.wire.completions import CompletionRequest
from unmask.server.wire.fim import FimRequest
from unmask.server.wire.generate import GenerateRequest
from unmask.server.wire.score import ScoreRequest
from unmask.server.wire.tokenize import DetokenizeRequest, TokenizeRequest

JSON = {"content-type": "application/json"}
NEEDING_NOTHING = {"/api/generate", "/api/show"}  # and ignoring what they do not know
KINDS: list[type[BaseModel]] = [
    *(ChatRequest, CompletionRequest, DetokenizeRequest, FimRequest, GenerateRequest, ScoreRequest, TokenizeRequest),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny"), default_max_tokens=2) as running:
        yield running


def endpoints(server: Live) -> list[str]:
    """All that take a body."""
    paths = server.http.get("/openapi.json").json()["paths"]
    return [path for path, operations in paths.items() if "post" in operations]


def refusal(text: str) -> dict[str, Any]:
    """The error that an answer is; of Ollama's, `error` is the text alone."""
    body: dict[str, Any] = json.loads(text)
    error = body["error"]
    return {**body, "message": error} if isinstance(error, str) else error


def post(server: Live, path: str, body: bytes) -> tuple[int, str]:
    """(status, text of the answer)"""
    response = server.http.post(path, content=body, headers=JSON)
    return response.status_code, response.text


@pytest.mark.parametrize("name", BODIES)
def test_every_body_is_refused_everywhere_without_a_trace(
    server: Live, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = BODIES[name](server.app.state.backend.max_body_bytes)
    for path in endpoints(server):
        status, text = post(server, path, body)
        if name == "a long name" and path.startswith("/v1") and status == 200:  # where it is ignored
            continue
        if path in NEEDING_NOTHING and status == 200:
            continue
        assert status == 400, (path, text[:300])
        error = refusal(text)
        assert len(error["message"]) <= MAX_MESSAGE
        assert len(error["param"] or "") <= MAX_PARAM
        assert "x" * (MAX_PARAM + 1) not in error["message"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("depth", [190, 199, 200, 201, *range(956, 972, 3), 500_000])
def test_no_depth_is_a_fault(server: Live, depth: int) -> None:
    for path in set(endpoints(server)) - NEEDING_NOTHING:
        assert post(server, path, nested('{"prompt":', depth, "}")(2**20))[0] == 400


@pytest.mark.parametrize("name", BODIES)
def test_the_first_fault_is_the_only_one(name: str) -> None:
    """What is wrong with a body costs something for each fault; only names of fields may be wrong in numbers."""
    body = BODIES[name](MOST_BYTES // 64)
    names = len(body) // 5 if name.startswith("names") else 2
    for kind in KINDS:
        assert faults(kind, body) <= len(kind.model_fields) + names


def faults(kind: type[BaseModel], body: bytes) -> int:
    try:
        kind.model_validate_json(body)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("unit", "most"), [(b"1,", MAX_VALUES), (b"[]", MAX_NAMES), (b'"":', MAX_NAMES)])
def test_what_is_parsed_is_bounded(unit: bytes, most: int) -> None:
    check_size(unit * most)
    check_size(b'"%s"' % (unit.replace(b'"', b"") * 2 * most))  # all of it a text
    with pytest.raises(BadRequestError, match="the JSON of the body holds more than"):
        check_size(unit * (most + 1))


def test_numbers_are_as_long_as_a_float_may_be() -> None:
    check_size(b'{"temperature": 1%s, "prompt": "%s"}' % (b"0" * 308, b"1" * 10**6))
    with pytest.raises(BadRequestError, match="a number of more than 400 digits"):
        check_size(b'{"temperature": 1%s}' % (b"0" * 400))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e309", "-1.5E+999", "17.9e0308"])
def test_numbers_are_finite(server: Live, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in endpoints(server):
        if path in SOUND:
            body = json.dumps(SOUND[path])[:-1].encode() + b', "x": {"a": [%s]}}' % number.encode()
            status, text = post(server, path, body)
            assert (status, "which is no number" in refusal(text)["message"]) == (400, path != "/generate"), text
    for piece in range(1, 12):  # wherever it is cut
        monkeypatch.setattr(bodies, "PIECE", piece)
        assert check_size(b'{"%s": 1.7e308, "b": [1e-999, 9e99]}' % number.encode()) is None
        found = check_size(b'{"a": [0, %s], "b": [%s]}' % (number.encode(), b"0, " * 30 + b"1"))
        assert found is not None
        assert found in number


@pytest.mark.parametrize("shift", range(4))
def test_what_stands_in_a_text_is_not_counted(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE", 8)
    text = json.dumps(['"[{,:\\', "\\" * 5, '\\"', "," * 9] * 3)
    monkeypatch.setattr(bodies, "MAX_NAMES", 1)
    monkeypatch.setattr(bodies, "MAX_VALUES", 11)
    check_size(b" " * shift + text.encode())
    monkeypatch.setattr(bodies, "MAX_VALUES", 10)
    with pytest.raises(BadRequestError):
        check_size(b" " * shift + text.encode())


def test_the_event_loop_goes_on_while_a_body_is_read(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, reading = threading.Event(), threading.Event()

    def slowly(raw: bytes, kind: type[BaseModel]) -> BaseModel:
        reading.set()
        gate.wait(PATIENCE)
        return read_body(raw, kind)

    monkeypatch.setattr(bodies, "read_body", slowly)
    for path in endpoints(server):
        asking = threading.Thread(target=partial(post, server, path, b"{}"))
        asking.start()
        assert reading.wait(PATIENCE)
        assert server.http.get("/health").status_code == 200
        gate.set()
        asking.join()
        gate.clear()
        reading.clear()


def test_a_client_that_leaves_with_half_a_body_is_no_fault(server: Live, caplog: pytest.LogCaptureFixture) -> None:
    address = server.http.base_url.host, server.http.base_url.port or 0

    def told(path: str) -> bool:
        return server.metric("unmask_http_requests_total", method="POST", path=path, status="499") == 1

    for path in endpoints(server):
        with socket.create_connection(address, PATIENCE) as client:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
            client.sendall(f'{head}{{"prompt"'.encode())
        wait_for(partial(told, path))
    assert not [record for record in caplog.records if record.exc_info]


def test_the_default_follows_the_model(server: Live) -> None:
    assert server.app.state.backend.max_body_bytes == default_body_bytes(256, 256) == 2**20
    assert default_body_bytes(512, 256) == 2 * 2**20
    assert default_body_bytes(131_072, 256) == MOST_BYTES
    with live("llada-nano", max_body_bytes=100, ready=False) as small:
        wait_for(lambda: small.http.get("/ready").status_code == 200)
        assert post(small, "/generate", b" " * 101)[0] == 413


def test_five_hundred_random_bodies_are_no_fault(server: Live) -> None:
    chance, statuses = random.Random(0), Counter[int]()
    paths = endpoints(server)
    for _ in range(500):
        path = chance.choice(paths)
        fields = {chance.choice(NAMES): nonsense(chance, 3) for _ in range(chance.randint(1, 6))}
        body = json.dumps({"max_tokens": 1, **fields})
        raw = body.encode()
        if chance.random() < 0.2:
            at = chance.randrange(len(raw))
            raw = raw[:at] + chance.randbytes(3) + raw[at + chance.randrange(4) :]
        status, text = post(server, path, raw)
        statuses[status] += 1
        assert status in {200, 400, 404, 408}, (path, body, text)
    assert statuses[400] > 300


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "roomy", max_sequence_length=2048)) as running:
        yield running


@pytest.mark.slow
def test_sound_bodies_with_one_wrong_part_are_no_fault(roomy: Live) -> None:
    chance, statuses = random.Random(1), Counter[int]()
    for path, sound in SOUND.items():
        assert post(roomy, path, json.dumps(sound).encode())[0] == 200
    for _ in range(100):
        path = chance.choice([*SOUND])
        body = json.dumps(spoiled(SOUND[path], chance))
        status, text = post(roomy, path, body.encode())
        statuses[status] += 1
        assert status in {200, 400, 404, 408}, (path, body, text)
    assert statuses[200] > 5
    assert statuses[400] > 50


def spoiled(value: Any, chance: random.Random) -> Any:
    """The same JSON with one part of it, chosen by chance, replaced by other JSON."""
    inner = [*value] if isinstance(value, dict) else [*range(len(value))] if isinstance(value, list) else []
    if not inner or chance.random() < 0.1:
        return chance.choice([nonsense(chance, 2), [value], {"type": value}])
    at = chance.choice(inner)
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {name: spoiled(part, chance) if name == at else part for name, part in parts}
    return changed if isinstance(value, dict) else [*changed.values()]


SCHEMA: Any = {
    "type": "object",
    "properties": {"a": {"type": ["integer", "null"], "minimum": 0}, "b": {"$ref": "#/$defs/b"}, "c": {"enum": ["x"]}},
    "required": ["a"],
    "$defs": {"b": {"oneOf": [{"type": "string", "pattern": "^a$"}, {"type": "array", "allOf": [{"maxItems": 1}]}]}},
}
FUNCTION: Any = {"name": "f", "description": "f", "parameters": SCHEMA}
SHORT: Any = {"max_tokens": 120, "seed": 1}
SAID: Any = [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "b"}]
CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TALK: Any = [*SAID, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "5"}]
ITEM: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
SOUND: dict[str, Any] = {
    "/v1/chat/completions": {
        "messages": TALK,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
        **SHORT,
    },
    "/v1/completions": {"prompt": "a", "structured_outputs": {"json": SCHEMA}, "logit_bias": {"5": 1.0}, **SHORT},
    "/generate": {"messages": SAID, "structured_outputs": {"choice": ["a", "b"]}, "scheduler": {"name": "topk"}},
    "/v1/responses": {
        "input": [*SAID, ITEM, {"type": "function_call_output", "call_id": "c", "output": "5"}],
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": "required",
        "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
        "metadata": {"a": "b"},
        **SHORT,
    },
    "/v1/messages": {
        "system": [{"type": "text", "text": "a"}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "5"}]},
        ],
        "tools": [{"name": "f", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        **SHORT,
    },
    "/api/chat": {
        "messages": TALK,
        "stream": False,
        "format": SCHEMA,
        "tools": [{"type": "function", "function": FUNCTION}],
        "options": {"num_predict": 120, "seed": 1, "stop": ["z"]},
    },
}
NAMES = [
    *("prompt", "messages", "input_ids", "canvas", "mask_marker", "max_tokens", "block_length", "scheduler", "steps"),
    *("threshold", "policy", "speed", "temperature", "top_p", "top_k", "seed", "stop", "cache", "timeout", "stream"),
    *("input_state", "name", "alpha", "weight"),
    *("n", "logprobs", "top_logprobs", "echo", "suffix", "completion", "patterns", "coupled_pairs", "tokens", "x"),
    *("likelihood_samples", "add_special_tokens", "return_token_strs", "max_forward_passes", "stream_options", "model"),
]
TEXTS = [
    *("", "a", "[MASK]", "[MASK:9999999999999]", "[", "topk", "random", "policy", "dual:refresh=" + "9" * 5000, "auto"),
    *("residual", "soft", "iter-smooth", "residual:alpha=" + "9" * 5000, "residual:alpha"),
    *("\0", "\u2028", "\U0001f600" * 50, "<|eot_id|>", "../../etc/passwd", "a" * 10_000),
]
NUMBERS = [0, 1, -1, 2, 16, 255, 2**31 - 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf")]


def nonsense(chance: random.Random, depth: int) -> Any:
    """Some JSON."""
    kind = chance.randrange(8 if depth else 5)
    if kind < 2:
        return chance.choice(TEXTS)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind == 4:
        return chance.choice([None, True, False])
    if kind == 5:
        return {chance.choice(["name", "role", "content", "type", "text", "n", "x"]): nonsense(chance, depth - 1)}
    if kind == 6:
        return [{"role": chance.choice(["user", "assistant", "tool"]), "content": nonsense(chance, depth - 1)}]
    return [nonsense(chance, depth - 1) for _ in range(chance.randrange(4))]
