"""Time and leaving bound everything that a request waits for: not its generation alone."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live import PATIENCE, Live, live, wait_for
from tests.synthetic import synthetic_llada

SCORED = {"input_ids": [3, 4, 5], "completion": [6, 7], "likelihood_samples": 4}
ECHOED = {"prompt": [3, 4, 5], "echo": True, "logprobs": 1, "max_tokens": 0}
READ = {"messages": [{"role": "user", "content": "hello"}]}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/score", SCORED),
    ("/v1/completions", ECHOED),
    ("/v1/completions", {**ECHOED, "max_tokens": 4, "stream": True}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


@contextmanager
def halted(server: Live) -> Iterator[None]:
    """Let the engine's thread wait, so that nothing which needs it is ever done."""
    gate, waits = threading.Event(), threading.Event()

    def wait(engine: object) -> None:
        waits.set()
        gate.wait(PATIENCE)

    server.app.state.backend.service.call(wait)
    assert waits.wait(PATIENCE)
    try:
        yield
    finally:
        gate.set()


@pytest.mark.parametrize(("path", "body"), BODIES, ids=["score", "echo", "echo of a stream"])
def test_scoring_ends_when_its_time_is_up(server: Live, path: str, body: dict[str, Any]) -> None:
    with halted(server):
        response = server.http.post(path, json={**body, "timeout": 0.2})
        assert (response.status_code, response.json()["error"]["code"]) == (408, "timeout")
        assert "within 0.2 seconds" in response.json()["error"]["message"]
        wait_for(lambda: server.http.get("/load").json() == {"server_load": 0})
    assert server.http.post(path, json={**body, "timeout": PATIENCE}).status_code == 200


@pytest.mark.parametrize(("path", "body"), BODIES, ids=["score", "echo", "echo of a stream"])
def test_the_server_may_set_the_time_of_scoring(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    with live(synthetic_llada(tmp_path / "tiny"), request_timeout=0.2) as server, halted(server):
        assert server.http.post(path, json={**body, "timeout": PATIENCE}).status_code == 408


@pytest.mark.parametrize(("path", "body"), BODIES, ids=["score", "echo", "echo of a stream"])
def test_who_leaves_is_scored_no_further(server: Live, path: str, body: dict[str, Any]) -> None:
    request = server.http.build_request("POST", path, json=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with halted(server):
        with socket.create_connection((server.http.base_url.host, server.http.base_url.port or 0)) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + request.content)
            wait_for(lambda: server.http.get("/load").json() == {"server_load": 1})
        wait_for(lambda: server.http.get("/load").json() == {"server_load": 0})


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/score"])
def test_time_runs_while_a_request_is_read(server: Live, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    gate = threading.Event()
    monkeypatch.setattr("unmask.models.tokenizer.render", lambda *arguments: gate.wait(PATIENCE) and "a")
    completion = {"completion": [3]} if path == "/score" else {}
    response = server.http.post(path, json={**READ, **completion, "timeout": 0.2})
    assert (response.status_code, response.json()["error"]["code"]) == (408, "timeout")
    gate.set()
    assert server.http.post(path, json={**READ, **completion, "timeout": PATIENCE}).status_code == 200


def test_reading_that_hangs_is_told_by_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr("unmask.models.tokenizer.render", lambda *arguments: gate.wait(PATIENCE) and "a")
    with live(synthetic_llada(tmp_path / "tiny"), step_timeout=0.2) as server:
        assert server.http.post("/generate", json={**READ, "timeout": 0.1}).status_code == 408
        wait_for(lambda: server.http.get("/health").status_code == 503)
        assert "rendering the chat template, has taken more than 0.2 s" in server.http.get("/health").text
        gate.set()
        wait_for(lambda: server.http.get("/health").status_code == 200)
