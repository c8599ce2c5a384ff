"""The speed that follows the load, over HTTP: what requests and the server may ask for, and what answers say."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.live import ANSWER, QUESTION, Live, live
from unmask.engine.canvas import Canvas
from unmask.engine.service import OnStep
from unmask.server.settings import ServeSettings

CHAT = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/generate", CHAT),
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": QUESTION, "max_tokens": 64}),
    ("/v1/fim/completions", {"prompt": QUESTION, "max_tokens": 64}),
    ("/v1/responses", {"input": QUESTION, "max_output_tokens": 64}),
    ("/v1/messages", CHAT),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano", speed="auto:low=0.25:high=1", default_scheduler="threshold") as running:
        yield running


@pytest.mark.parametrize(("path", "body"), ENDPOINTS)
def test_every_endpoint_takes_it_and_tells_what_was_chosen(server: Live, path: str, body: dict[str, Any]) -> None:
    speed = {"auto": [0.5, 1]}
    told = server.http.post(path, json={**body, "speed": speed}).json()["diffusion"]
    ends = {"option": "threshold", "careful": 0.9, "fast": 0.5}
    assert told["speed"] == {"auto": [0.5, 1.0], "mean": 0.5} | ends
    assert told["scheduler"] == {"name": "threshold", "threshold": 0.9}
    by_default = server.http.post(path, json=body).json()["diffusion"]["speed"]
    assert by_default == {"auto": [0.25, 1.0], "mean": 0.25} | ends
    assert "speed" not in server.http.post(path, json={**body, "scheduler": "dus"}).json()["diffusion"]
    response = server.http.post(path, json={**body, "scheduler": "dus", "speed": "auto"})
    assert response.status_code == 400
    assert "'dus' has no option" in response.text


def test_ollamas_options_take_it(server: Live) -> None:
    body = {"messages": CHAT["messages"], "stream": False, "options": {"speed": "auto"}}
    assert server.http.post("/api/chat", json=body).json()["diffusion"]["speed"]["auto"] == [0.0, 1.0]


def test_the_last_chunk_of_a_stream_tells_it(server: Live) -> None:
    name, done = server.events(**CHAT, speed="auto")[-1]
    assert (name, done["diffusion"]["speed"]["mean"]) == ("done", 0.0)
    lines = server.http.post("/v1/chat/completions", json={**CHAT, "stream": True, "speed": "auto"}).text
    assert '"speed":{"auto":[0.0,1.0],"mean":0.0,' in lines


def test_a_number_is_an_option_as_ever(server: Live) -> None:
    for body in ({"policy": "any-speed", "speed": 0.7}, {"scheduler": {"name": "policy", "speed": 0.7}}):
        told = server.generate(**CHAT, **body)["diffusion"]
        assert told["scheduler"]["speed"] == 0.7
        assert "speed" not in told
    paced = server.generate(**CHAT, scheduler={"name": "policy", "speed": 0.3}, speed="auto")["diffusion"]["speed"]
    assert (paced["careful"], paced["fast"]) == (0.3, 0.8)


@pytest.mark.parametrize("speed", ["fast", {"auto": [1, 0]}, {"low": 0}, [0, 1], True])
def test_the_server_refuses_other_speeds(server: Live, speed: object) -> None:
    response = server.http.post("/generate", json={**CHAT, "speed": speed})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "speed")
    assert 'a number, "auto", or {"auto": [low, high]}' in response.json()["error"]["message"]


def test_the_flag_is_checked_before_a_model_loads() -> None:
    with pytest.raises(ValueError, match="speed 'quick' cannot be read; write auto"):
        ServeSettings(speed="quick")


def test_metrics_tell_what_was_chosen(server: Live) -> None:
    def counted() -> list[float]:
        names = [(what, scheduler) for scheduler in ("eb", "policy") for what in ("count", "sum")]
        return [server.metric(f"unmask_auto_speed_{what}", scheduler=scheduler) for what, scheduler in names]

    before = counted()
    server.generate(**CHAT, scheduler="eb", speed={"auto": [0.75, 1]})
    server.generate(**CHAT, policy="any-speed", speed=0.5)
    assert [after - once for after, once in zip(counted(), before, strict=True)] == [1, 0.75, 0, 0]


def test_the_time_that_a_request_may_take_is_its_deadline(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    service, given = server.app.state.backend.service, list[Canvas]()
    enqueue = service.enqueue

    def listened(canvas: Canvas, on_step: OnStep) -> None:
        given.append(canvas)
        enqueue(canvas, on_step)

    monkeypatch.setattr(service, "enqueue", listened)
    before = time.monotonic()
    server.generate(**CHAT, speed="auto", timeout=300)
    server.generate(**CHAT, speed="auto")
    paces = [canvas.request.pace for canvas in given]
    assert [pace and pace.deadline and before < pace.deadline - 300 < time.monotonic() for pace in paces] == [
        True,
        None,
    ]


@pytest.mark.slow
def test_a_crowd_is_answered_in_fewer_passes_and_one_alone_as_ever() -> None:
    body = {**CHAT, "scheduler": "threshold"}
    with live("llada-nano", max_rows=2) as server:
        careful, alone = server.generate(**body), server.generate(**body, speed="auto")
        assert (
            (alone["text"], alone["token_ids"])
            == (careful["text"], careful["token_ids"])
            == (ANSWER, careful["token_ids"])
        )
        assert alone["diffusion"]["speed"]["mean"] == 0.0
        with ThreadPoolExecutor(16) as pool:
            crowd = list(pool.map(lambda i: server.generate(**body, seed=i, speed="auto"), range(48)))
    means = [answer["diffusion"]["speed"]["mean"] for answer in crowd]
    assert max(means) > 0.9
    passes = [answer["diffusion"]["forward_passes"] for answer in crowd]
    assert sum(passes) < len(crowd) * careful["diffusion"]["forward_passes"]
