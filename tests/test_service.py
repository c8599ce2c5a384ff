"""The engine on its own thread: answers, limits, cancelling, faults that end requests and not the engine."""

import queue
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.live import PATIENCE, wait_for
from tests.rogues import registered
from tests.synthetic import synthetic_llada
from unmask.engine import (
    Engine,
    EngineError,
    EngineService,
    EngineStoppedError,
    QueueFullError,
    Request,
    SchedulerFailedError,
    Step,
)
from unmask.engine.errors import SchedulerError
from unmask.models.loading import load_model
from unmask.schedulers import Decision, State, View, parse_scheduler_text

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


def make(id: str, scheduler: str = "topk", max_tokens: int = 12, block_length: int = 4) -> Request:
    return Request(id, (3, 4, 5), max_tokens, block_length, parse_scheduler_text(scheduler))


def last(events: Events) -> Step | EngineError:
    while True:
        event = events.get(timeout=PATIENCE)
        if isinstance(event, EngineError) or event.result is not None:
            return event


@contextmanager
def halted(service: EngineService) -> Iterator[None]:
    """Let the engine's thread wait, so that what is submitted meanwhile joins at the same step."""
    gate = threading.Event()

    def wait() -> None:
        gate.wait(PATIENCE)

    service._commands.put(wait)
    yield
    gate.set()


def finish(events: Events) -> str:
    event = last(events)
    assert isinstance(event, Step)
    assert event.result is not None
    return event.result.finish_reason


def test_a_request_is_checked_once_by_the_thread_that_submits_it(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[threading.Thread] = []
    check = service.engine.check

    def noted(request: Request) -> None:
        checked.append(threading.current_thread())
        check(request)

    monkeypatch.setattr(service.engine, "check", noted)
    events: Events = queue.Queue()
    service.submit(make("one"), events.put)
    assert finish(events) in ("stop", "length")
    assert checked == [threading.current_thread()]


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


def test_a_listener_is_let_go_with_its_last_event(service: EngineService) -> None:
    events: Events = queue.Queue()
    listener = partial(events.put)
    gone = weakref.ref(listener)
    service.submit(make("a"), listener)
    del listener
    assert finish(events) == "length"
    assert service.call(lambda engine: gone()).result(PATIENCE) is None  # asked after the step is over


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
    run, faults = service.engine._run, iter([1])
    monkeypatch.setattr(service.engine, "_run", lambda *step: 1 / 0 if next(faults, 0) else run(*step))
    events: Events = queue.Queue()
    service.submit(make("faulty"), events.put)
    event = last(events)
    assert isinstance(event, EngineError)
    assert "division by zero" in str(event)
    service.submit(make("next"), events.put)
    assert finish(events) in ("length", "stop")


@pytest.mark.parametrize("other", ["topk", "counting", "klass:threshold=0:epsilon=0.0002:history=1"])
def test_a_scheduler_that_fails_changes_nothing_for_those_who_use_another(
    service: EngineService, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    def outcome(events: Events) -> tuple[object, ...]:
        event = last(events)
        assert isinstance(event, Step)
        assert event.result is not None
        when = [(reveal.position, reveal.step) for reveal in event.result.reveals]
        return event.result.token_ids, when, event.result.forward_passes

    def fail_at_last(self: object, view: View, state: State) -> Decision:
        if view.step.max() >= 3:
            raise RuntimeError("no idea")
        return Decision(torch.zeros_like(view.mask))

    monkeypatch.setattr("tests.rogues.Idle.decide", fail_at_last)
    alone: Events = queue.Queue()
    service.submit(make("alone", other, 40, 40), alone.put)
    undisturbed = outcome(alone)
    bad, good = queue.Queue(), queue.Queue()  # type: tuple[Events, Events]
    with halted(service):
        service.submit(make("good", other, 40, 40), good.put)
        service.submit(make("bad", "idle", 40, 40), bad.put)
    event = last(bad)
    assert isinstance(event, SchedulerFailedError)
    assert "scheduler 'idle' failed: RuntimeError: no idea" in str(event)
    assert outcome(good) == undisturbed


def test_an_engine_that_does_not_recover_ends_and_leaves_nobody_waiting(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(service.engine, "_run", lost)
    queues: list[Events] = [queue.Queue() for _ in range(4)]
    with halted(service):
        for i, events in enumerate(queues[:3]):
            service.submit(make(str(i)), events.put)
    assert all("the device is lost" in str(last(events)) for events in queues[:3])
    service._thread.join(PATIENCE)
    assert not service.alive
    with pytest.raises(EngineStoppedError):
        service.submit(make("late"), queues[3].put)
    service.stop()


def test_the_engine_tells_how_long_a_step_takes(service: EngineService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.rogues.Idle.decide", lambda self, view, state: gate.wait(PATIENCE) and None)
    gate, events = threading.Event(), queue.Queue()  # type: tuple[threading.Event, Events]
    assert service.step_seconds == 0
    service.submit(make("stuck", "idle"), events.put)
    wait_for(lambda: service.step_seconds > 0.05)
    gate.set()
    assert isinstance(last(events), EngineError)


def test_a_request_whose_scheduler_cannot_be_made_is_refused(
    service: EngineService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, label: str) -> None:
        raise RuntimeError("no weights")

    monkeypatch.setattr("tests.rogues.Counting.__init__", broken)
    bad: Events = queue.Queue()
    good: Events = queue.Queue()
    service.submit(make("good", max_tokens=60), good.put)
    with pytest.raises(SchedulerError, match="scheduler 'counting' failed: RuntimeError: no weights"):
        service.submit(make("bad", "counting"), bad.put)
    assert finish(good) in ("length", "stop")
    assert bad.empty()


def test_stopping_cancels_what_runs_and_refuses_what_comes(service: EngineService) -> None:
    events: Events = queue.Queue()
    service.submit(make("long", "idle", max_tokens=200), events.put)
    events.get(timeout=PATIENCE)
    service.stop()
    assert finish(events) == "cancelled"
    assert not service.alive
    with pytest.raises(EngineStoppedError):
        service.submit(make("late"), events.put)
