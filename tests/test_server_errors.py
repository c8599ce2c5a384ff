"""Each way to be refused: the status, the field it names, and a sentence that helps."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import PATIENCE, Live, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.models.loading import load_configured
from unmask.server.errors import MAX_MESSAGE

LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": 1000}
CANCELLED = {"scheduler": "topk", "finished_reason": "abort"}
JSON = {"content-type": "application/json"}

# (body, param, part of the message)
BAD_GENERATE: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "prompt", "exactly one of the fields prompt, messages, input_ids, or a canvas, not none"),
    ({"prompt": "a", "input_ids": [1]}, "prompt", "not prompt and input_ids"),
    ({"prompt": ""}, "prompt", "holds no tokens"),
    ({"prompt": "a", "cache": "dule"}, "cache", "cache 'dule' is unknown; the caches are: none, prefix, dual, block"),
    ({"prompt": "a", "cache": "block"}, "cache", "'block' is not for this model"),
    ({"prompt": "a", "input_state": "hard"}, "input_state", "the input states are: mask, residual, soft, iter-smooth"),
    ({"prompt": "a", "input_state": 3}, "input_state", "must be a name, or an object with a name and options, not 3"),
    ({"prompt": "a", "input_state": {"alpha": 1}}, "input_state", "'input_state.name' must be the name of one"),
    ({"prompt": "a", "input_state": {"name": "residual", "alpha": 2}}, "input_state", "a number from 0 to 1, not 2"),
    ({"prompt": 5}, "prompt", "must be a valid string, not 5"),
    ({"prompt": "\ud800"}, None, "half of a surrogate pair"),
    ({"prompt": "a", "kanvas": [1]}, "kanvas", "did you mean 'canvas'? The fields are: model, max_tokens"),
    ({"canvas": 5}, "canvas", "a text with mask markers, or a list of token ids and null for each mask, not 5"),
    ({"canvas": "a"}, "canvas", "holds no mask; write [MASK] for each"),
    ({"canvas": "a [MASK]", "mask_marker": "_"}, "canvas", "holds no mask; write _ for each"),
    ({"canvas": [1, 2]}, "canvas", "holds no mask; write null for each"),
    ({"canvas": [None, 999]}, "canvas", "token id 999; give ids from 0 to 270"),
    ({"canvas": [None, "a"]}, "canvas", "list of token ids and null"),
    ({"canvas": "[MASK:2000]"}, "canvas", "length is 1024 tokens; field 'canvas' holds 2000 masks"),
    ({"canvas": "[MASK:" + "9" * 50 + "]"}, "canvas", "holds 9999999999 masks"),
    ({"canvas": [None] * 1025}, "canvas", "'canvas' of 1025 make 1025"),
    ({"canvas": [None], "prompt": "a", "input_ids": [1]}, "prompt", "not prompt and input_ids"),
    ({"canvas": [None], "max_tokens": 1}, "max_tokens", "is not for a canvas"),
    ({"canvas": [None], "mask_marker": "_"}, "mask_marker", "is for a canvas that is a text"),
    ({"prompt": "a", "mask_marker": "_"}, "mask_marker", "is for a canvas that is a text"),
    ({"prompt": "a", "\ud800": 1}, None, "half of a surrogate pair"),
    ({"input_ids": [1, 271]}, "input_ids", "token id 271; give ids from 0 to 270"),
    ({"input_ids": [-1]}, "input_ids", "token id -1"),
    ({"input_ids": ["a"]}, "input_ids.0", "must be a valid integer"),
    ({"messages": []}, "messages", "must have at least 1 item, not []"),
    (
        {"messages": [{"role": "robot", "content": "a"}]},
        "messages.0.role",
        "'user', 'assistant' or 'tool'",
    ),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "must be a text"),
    ({"messages": [{"role": "user", "content": "a", "name": 1}]}, "messages.0.name", "must be a valid string"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "greater than or equal to 1, not 0"),
    ({"prompt": "a", "max_tokens": "many"}, "max_tokens", "must be a valid integer, not 'many'"),
    ({"prompt": "abc", "max_tokens": 2000}, "max_tokens", "prompt of 3 tokens and 'max_tokens' of 2000 make 2003"),
    ({"prompt": "a", "temperature": -1}, "temperature", "must be greater than or equal to 0, not -1"),
    ({"prompt": "a", "seed": 2**63}, "seed", "not 9223372036854775808"),
    ({"prompt": "a", "stop": ["x", ""]}, "stop", "each of 1 to 256 characters, not ['x', '']"),
    ({"prompt": "a", "stream": "yes"}, "stream", "must be a valid boolean"),
    ({"prompt": "a", "scheduler": "best"}, "scheduler", "unknown scheduler 'best'; the schedulers are: ada-block, "),
    ({"prompt": "a", "scheduler": 5}, "scheduler", "must be a name, or an object with a name and options, not 5"),
    ({"prompt": "a", "scheduler": {"n": 1}}, "scheduler", "must be the name of a scheduler"),
    (
        {"prompt": "a", "scheduler": {"name": "topk", "k": 1}},
        "scheduler",
        "unknown option 'k'; the options are: n, steps",
    ),
    ({"prompt": "a", "scheduler": {"name": "topk", "n": 2**31}}, "scheduler", "must be below 2147483648"),
    ({"prompt": "a", "threshold": 2}, "threshold", "must be a number from 0 to 1, not 2.0"),
    ({"prompt": "a", "scheduler": "topk", "threshold": 0.5}, "threshold", "unknown option 'threshold'"),
    ({"prompt": "a", "speed": 1}, "speed", "unknown option 'speed'"),
    ({"prompt": "a", "scheduler": {"name": "topk", "steps": 2}, "steps": 2}, "steps", "given twice"),
]
BAD_COMPLETIONS: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "prompt", "is missing"),
    ({"prompt": {"a": 1}}, "prompt", "must be a text, a list of texts, a list of token ids"),
    ({"prompt": []}, "prompt", "holds no tokens"),
    ({"prompt": ["a", ""]}, "prompt", "holds no tokens"),
    ({"prompt": [[1], [999]]}, "prompt", "token id 999"),
    ({"prompt": ["a", "b"], "n": 128}, "prompt", "ask for 256 choices"),
    ({"prompt": "a", "n": 129}, "n", "less than or equal to 128"),
    (
        {"prompt": ["a" * 900] * 2, "echo": True, "logprobs": 1},
        "echo",
        "passes over 1620000 tokens in total",
    ),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "of 0 needs 'echo': true"),
    ({"prompt": "a", "max_tokens": -2, "echo": True}, "max_tokens", "greater than or equal to 0, not -2"),
    ({"prompt": "a", "logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"prompt": "a", "logprobs": True}, "logprobs", "valid integer"),
    ({"prompt": "a", "diffusing": True}, "diffusing", "needs 'stream': true"),
    ({"prompt": "a", "diffusing": True, "stream": True, "logprobs": 1}, "logprobs", "exclude each other"),
    ({"prompt": "a", "diffusing": True, "stream": True, "echo": True}, "echo", "exclude each other"),
    ({"prompt": "a", "suffix": 5}, "suffix", "must be a valid string"),
    ({"prompt": "a", "suffix": "b" * 1023}, "prompt", "has 1 tokens and the suffix 1023, which leaves no room"),
    ({"prompt": "a" * 1025, "echo": True, "max_tokens": 0}, "prompt", "has 1025 tokens, which leaves no room"),
    ({"prompt": "a", "best_of": 3}, "best_of", "not supported with the value 3"),
    ({"prompt": "a", "best_of": 2}, "best_of", "not supported"),
    ({"prompt": "a", "grammar": "a"}, "grammar", "not supported"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "needs 'stream': true"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=1024)
    with live(folder, max_rows=1, max_waiting=129) as running:
        yield running


def refusal(server: Live, status: int, path: str = "/generate", **sent: Any) -> dict[str, Any]:
    """The `error` object of a request that is refused with this status."""
    response = server.http.post(path, **sent)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


def waiting(server: Live) -> float:
    return server.metric("unmask_num_requests_waiting")


@pytest.mark.parametrize(("body", "param", "message"), BAD_GENERATE, ids=str)
def test_generate_refuses(server: Live, body: dict[str, Any], param: str | None, message: str) -> None:
    error = refusal(server, 400, content=json.dumps(body), headers=JSON)
    assert message in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


@pytest.mark.parametrize(("body", "param", "message"), BAD_COMPLETIONS, ids=str)
def test_completions_refuse(server: Live, body: dict[str, Any], param: str | None, message: str) -> None:
    error = refusal(server, 400, "/v1/completions", json=body)
    assert message in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize("content", [b"not json", b"", b"[]", b'"text"', b"\xff", b"[" * 100_000, b"NaN"])
def test_body_that_is_no_json_object(server: Live, content: bytes) -> None:
    assert "JSON" in refusal(server, 400, content=content, headers=JSON)["message"]


def test_body_without_its_content_type(server: Live) -> None:
    assert "content-type: application/json" in refusal(server, 400, content=b'{"prompt": "a"}')["message"]


def test_number_that_is_none(server: Live) -> None:
    error = refusal(server, 400, content=b'{"prompt": "a", "temperature": NaN}', headers=JSON)
    assert "finite number, not nan" in error["message"]


def test_long_value_is_not_quoted_whole(server: Live) -> None:
    for field in ("temperature", "scheduler", "model", "x" * 10_000):
        status = 404 if field == "model" else 400
        message = refusal(server, status, json={"prompt": "a", field: "y" * 10_000})["message"]
        assert len(message) <= MAX_MESSAGE


def test_context_length_has_its_code(server: Live) -> None:
    assert refusal(server, 400, json={"prompt": "a", "max_tokens": 2000})["code"] == "context_length_exceeded"


def test_unknown_model(server: Live) -> None:
    for path in ("/generate", "/v1/completions"):
        error = refusal(server, 404, path, json={"prompt": "a", "model": "gpt-4"})
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "'tiny'" in error["message"]


def test_unknown_route_and_method(server: Live) -> None:
    assert "POST '/nowhere'" in refusal(server, 404, "/nowhere")["message"]
    assert "POST '/health' is not allowed" in refusal(server, 405, "/health")["message"]


def test_queue_full(server: Live) -> None:
    # Those that left in tests before are counted first.
    wait_for(lambda: waiting(server) == server.metric("unmask_num_requests_running") == 0)
    long = {"prompt": ["a"] * 128, "max_tokens": 1000, "stream": True}
    with server.running(**LONG), server.http.stream("POST", "/v1/completions", json=long):
        wait_for(lambda: waiting(server) == 128)
        before = server.metric("unmask_request_success_total", **CANCELLED)
        response = server.http.post("/v1/completions", json={"prompt": ["a", "b"]})
        # There was room for the first of the two, and it does not stay.
        wait_for(lambda: server.metric("unmask_request_success_total", **CANCELLED) == before + 1)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == ("rate_limit_error", "queue_full")
    wait_for(lambda: waiting(server) == server.metric("unmask_num_requests_running") == 0)


def fail_once(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next step of a request fail, and never the proof that follows a failure: it may still run."""
    service = server.app.state.backend.service
    engine, step, faults = service.engine, service._step, iter([1])
    monkeypatch.setattr(
        service, "_step", lambda: 1 / 0 if (engine.waiting or engine.running) and next(faults, 0) else step()
    )


def test_engine_fault_ends_the_request_only(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(server, monkeypatch)
    assert refusal(server, 500, json={"prompt": "a"})["type"] == "server_error"
    fail_once(server, monkeypatch)
    assert server.events(prompt="a")[-1][0] == "error"
    assert server.generate(prompt="a")["text"]


def test_scheduler_that_fails_ends_its_requests_only(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.schedulers.random.Random.decide", lambda self, view, state: 1 / 0)
    error = refusal(server, 500, json={"prompt": "a", "scheduler": "random"})
    assert error["code"] == "scheduler_failed"
    assert error["message"] == "scheduler 'random' failed: ZeroDivisionError: division by zero"
    assert server.generate(prompt="a")["text"]


def test_step_that_hangs_is_told_by_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    with live(synthetic_llada(tmp_path), step_timeout=0.2) as server:
        monkeypatch.setattr(
            "unmask.schedulers.random.Random.decide", lambda self, view, state: gate.wait(PATIENCE) and None
        )
        body = {"prompt": "a", "scheduler": "random", "timeout": 0.1}
        assert refusal(server, 408, json=body)["code"] == "timeout"
        wait_for(lambda: server.http.get("/health").status_code == 503)
        assert "a step has taken more than 0.2 seconds" in refusal(server, 503, json={"prompt": "a"})["message"]
        gate.set()
        wait_for(lambda: server.http.get("/health").status_code == 200)


def test_fault_in_a_completions_stream_reaches_the_client(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_once(server, monkeypatch)
    response = server.http.post("/v1/completions", json={"prompt": "a", "stream": True})
    error, done = response.text.strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error"
    assert done == "data: [DONE]"


def test_unforeseen_fault_is_answered_and_not_told(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.app.state.backend, "submit", lambda *arguments: int("secret"))
    error = refusal(server, 500, json={"prompt": "a"})
    assert (error["code"], "secret" in error["message"]) == ("internal_error", False)
    assert server.metric("unmask_http_requests_total", method="POST", path="/generate", status="500") > 0


def test_not_ready_while_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(
        "unmask.server.backend.load_configured", lambda *how: gate.wait(PATIENCE) and load_configured(*how)
    )
    with live(synthetic_llada(tmp_path), ready=False, served_model_name="named") as server:
        assert server.http.get("/health").status_code == 200
        assert server.http.get("/ready").status_code == 503
        assert refusal(server, 503, json={"prompt": "a"})["code"] == "not_ready"
        gate.set()
        wait_for(lambda: server.http.get("/ready").status_code == 200)


def test_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with live(tmp_path, ready=False) as server:
        wait_for(lambda: server.http.get("/health").status_code == 503)
        assert "config.json" in refusal(server, 503, json={"prompt": "a"})["message"]


def test_stop_ends_running_requests(tmp_path: Path) -> None:
    with live(synthetic_llada(tmp_path, max_sequence_length=1024)) as server:
        with server.running(**LONG) as events:
            server.app.state.backend.stop()
            assert [data["code"] for name, data in events if name != "step"][-1] == "stopping"
        assert refusal(server, 503, json={"prompt": "a"})["code"] == "stopping"


def test_health_tells_that_the_engine_has_ended(tmp_path: Path) -> None:
    with live(synthetic_llada(tmp_path)) as server:
        server.app.state.backend.service.stop()
        assert server.http.get("/health").status_code == server.http.get("/ready").status_code == 503
        assert "its engine has ended" in refusal(server, 503, json={"prompt": "a"})["message"]
