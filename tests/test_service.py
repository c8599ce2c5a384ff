"""The engine on its own thread: answers, limits, cancelling, faults that end requests and not the engine."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import Engine, EngineError, EngineService, EngineStoppedError, QueueFullError, Request, Step
from models.loading import load_model
from schedulers import parse_scheduler
from tests.rogues import registered
from tests.synthetic import synthetic_llada

PATIENCE = 30.0  # seconds; only a failure waits so long
Events = queue.Queue[Step | EngineError]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[EngineService]:
    with registered():
        service = EngineService(
            Engine(load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32"), max_rows=2), max_waiting=3
        )
        service.start()
        yield service
        service.stop()


def make(id: str, scheduler: str = "topk", max_tokens: int = 12) -> Request:
    return Request(id, (3, 4, 5), max_tokens, 4, parse_scheduler(scheduler))


def last(events: Events) -> Step | EngineError:
    while True:
        event = events.get(timeout=PATIENCE)
        if isinstance(event, EngineError) or event.result is not None:
            return event


def finish(events: Events) -> str:
    event = last(events)
    assert isinstance(event, Step)
    assert event.result is not None
    return event.result.finish_reason


def test_steps_arrive_in_order_and_end_with_a_result(service: EngineService) -> None:
    events: Events = queue.Queue()
    service.submit(make("one"), events.put)
    indices = []
    while True:
        event = events.get(timeout=PATIENCE)
        assert isinstance(event, Step)
        indices.append(event.index)
        if event.result is not None:
            break
    assert indices == list(range(event.result.forward_passes))
    assert events.empty()


def test_more_than_may_wait_are_refused_and_the_others_answered(service: EngineService) -> None:
    events: dict[str, Events] = {str(i): queue.Queue() for i in range(12)}
    refused = set()
    for id, own in events.items():
        try:
            service.submit(make(id, max_tokens=100), own.put)
        except QueueFullError:
            refused.add(id)
    assert refused
    assert all(finish(own) in ("length", "stop") for id, own in events.items() if id not in refused)


def test_cancelling_ends_a_request_at_once(service: EngineService) -> None:
    events: Events = queue.Queue()
    service.submit(make("long", "idle", max_tokens=200), events.put)
    events.get(timeout=PATIENCE)
    service.cancel("long")
    service.cancel("nobody")
    assert finish(events) == "cancelled"
    assert (service.running, service.waiting) == (0, 0)


def test_a_fault_ends_the_requests_in_it_and_the_next_are_served(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.rogues.Idle.decide", lambda self, view, state: 1 / 0)
    events: Events = queue.Queue()
    service.submit(make("faulty", "idle"), events.put)
    event = last(events)
    assert isinstance(event, EngineError)
    assert "division by zero" in str(event)
    service.submit(make("next"), events.put)
    assert finish(events) in ("length", "stop")


def test_a_scheduler_that_cannot_be_made_fails_its_request_alone(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, label: str) -> None:
        raise RuntimeError("no weights")

    monkeypatch.setattr("tests.rogues.Counting.__init__", broken)
    bad: Events = queue.Queue()
    good: Events = queue.Queue()
    service.submit(make("good", max_tokens=60), good.put)
    service.submit(make("bad", "counting"), bad.put)
    event = last(bad)
    assert isinstance(event, EngineError)
    assert "no weights" in str(event)
    assert finish(good) in ("length", "stop")


def test_stopping_cancels_what_runs_and_refuses_what_comes(service: EngineService) -> None:
    events: Events = queue.Queue()
    service.submit(make("long", "idle", max_tokens=200), events.put)
    events.get(timeout=PATIENCE)
    service.stop()
    assert finish(events) == "cancelled"
    assert not service.alive
    with pytest.raises(EngineStoppedError):
        service.submit(make("late"), events.put)
