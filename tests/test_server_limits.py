"""What a request may ask for: how much text, how long, how many; and that it is refused before it costs anything."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import PATIENCE, Live, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.server.parse.limits import CHARACTERS_PER_TOKEN
from unmask.server.wire.fields import MAX_STOP_LENGTH

POSITIONS = 512
MAX_BODY = 100_000
LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": 500}
HEAD = "POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=1024)
    with live(folder, max_model_len=POSITIONS, max_body_bytes=MAX_BODY, max_rows=1, max_waiting=20) as running:
        yield running


def refusal(server: Live, status: int, path: str = "/generate", **body: Any) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def raw(server: Live, *pieces: str) -> str:
    """What the server answers, and then closes the connection, to the beginning of a request."""
    with socket.create_connection((server.http.base_url.host, server.http.base_url.port or 0), PATIENCE) as connection:
        for piece in pieces:
            connection.sendall(piece.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_body_that_announces_too_much_is_refused_unread(server: Live) -> None:
    answer = raw(server, HEAD, "Content-Length: 100000000000\r\n\r\n")
    assert answer.startswith("HTTP/1.1 413 ")
    assert "\r\nconnection: close\r\n" in answer
    assert f"the body of 100000000000 bytes is larger than {MAX_BODY} bytes; send less at once" in answer


def test_body_that_does_not_say_how_long_it_is_is_refused_once_too_long(server: Live) -> None:
    chunk = f"{MAX_BODY:x}\r\n{' ' * MAX_BODY}\r\n"
    answer = raw(server, HEAD, "Transfer-Encoding: chunked\r\n\r\n", chunk, "1\r\n \r\n")
    assert answer.startswith("HTTP/1.1 413 ")


def test_canvas_may_be_limited(server: Live) -> None:
    error = refusal(server, 400, prompt="abc", max_tokens=POSITIONS - 2)
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    assert error["message"].startswith(f"This model's maximum context length is {POSITIONS} tokens; ")
    assert server.http.get("/v1/models").json()["data"][0]["max_model_len"] == POSITIONS


def test_text_that_cannot_fit_is_not_encoded(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.models.tokenizer.Tokenizer.encode", lambda self, text: 1 / 0)
    text = "a" * (CHARACTERS_PER_TOKEN * POSITIONS + 1)
    messages = [{"role": "user", "content": text}]
    for path, field, value in (
        ("/generate", "prompt", text),
        ("/generate", "messages", messages),
        ("/v1/completions", "prompt", [text]),
    ):
        error = refusal(server, 400, path, **{field: value})
        assert (error["param"], error["code"]) == (field, "context_length_exceeded")
        assert f"has {len(text)} characters" in error["message"]


def test_prompts_are_counted_before_they_are_encoded(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.models.tokenizer.Tokenizer.encode", lambda self, text: 1 / 0)
    assert "ask for 100 choices" in refusal(server, 400, "/v1/completions", prompt=["a"] * 100)["message"]


def test_tokens_are_as_many_as_the_model_reads(server: Live) -> None:
    assert server.http.post("/detokenize", json={"tokens": [1] * POSITIONS}).status_code == 200
    error = refusal(server, 400, "/detokenize", tokens=[1] * (POSITIONS + 1))
    assert (error["param"], error["code"]) == ("tokens", "context_length_exceeded")


def test_stop_texts_are_short(server: Live) -> None:
    assert server.generate(prompt="a", max_tokens=2, stop="\0" * MAX_STOP_LENGTH)
    error = refusal(server, 400, prompt="a", stop="\0" * (MAX_STOP_LENGTH + 1))
    assert f"1 to {MAX_STOP_LENGTH} characters" in error["message"]


def test_more_choices_than_may_wait_are_refused(server: Live) -> None:
    error = refusal(server, 400, "/v1/completions", prompt=["a"] * 7, n=3)
    assert "21 choices and at most 20" in error["message"]


def test_request_ends_when_its_time_is_up(server: Live) -> None:
    response = server.http.post("/generate", json={**LONG, "timeout": 0.05})
    assert (response.status_code, response.headers["x-should-retry"]) == (408, "false")
    assert response.json()["error"]["code"] == "timeout"
    assert "within 0.05 seconds" in response.json()["error"]["message"]
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)


def test_stream_ends_when_its_time_is_up(server: Live) -> None:
    *_, (name, data) = server.events(**LONG, timeout=0.1)
    assert (name, data["type"], data["code"]) == ("error", "timeout_error", "timeout")
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)


def test_time_that_is_enough_changes_nothing(server: Live) -> None:
    assert server.generate(prompt="a", max_tokens=4, seed=1, timeout=PATIENCE)["text"]
    assert refusal(server, 400, prompt="a", timeout=0)["param"] == "timeout"


def test_the_server_may_set_the_time(tmp_path: Path) -> None:
    with live(synthetic_llada(tmp_path, max_sequence_length=1024), request_timeout=0.05) as server:
        for timeout in (None, PATIENCE):
            assert refusal(server, 408, **LONG, timeout=timeout)["code"] == "timeout"


def test_a_canvas_longer_than_the_model_can_do_is_refused_at_the_start(tmp_path: Path) -> None:
    with live(synthetic_llada(tmp_path), ready=False, max_model_len=100_000) as server:
        wait_for(lambda: server.http.get("/health").status_code == 503)
        assert "max_model_len 100000 is more than the" in refusal(server, 503, prompt="a")["message"]
