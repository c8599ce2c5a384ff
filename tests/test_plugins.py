"""What a scheduler of a stranger's may do wrong, and that it ends the requests that use it and no others."""

import queue
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.live import Live, live
from tests.outcomes import Outcome, outcome
from tests.rogues import forget_instances, registered
from tests.synthetic import synthetic_llada
from unmask.engine import Engine, EngineError, EngineService, Request, SchedulerFailedError, Step
from unmask.engine.errors import RequestError, SchedulerError
from unmask.models.loading import Model, load_model
from unmask.schedulers import Decision, Needs, State, View, parse_scheduler

PATIENCE = 60.0  # seconds; only a failure waits so long
Events = queue.Queue[Step | EngineError]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("model"))), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def service(model: Model) -> Iterator[EngineService]:
    service = EngineService(Engine(model), max_waiting=8)
    service.start()
    yield service
    service.stop()


def make(id: str, scheduler: str) -> Request:
    return Request(id, (3, 4, 5), 24, 8, parse_scheduler(scheduler), top_logprobs=2)


def last(events: Events) -> Step | EngineError:
    while True:
        event = events.get(timeout=PATIENCE)
        if isinstance(event, EngineError) or event.result is not None:
            return event


def side_by_side(service: EngineService) -> tuple[Step | EngineError, Outcome]:
    """(how a request with the scheduler `idle` ends, the outcome of one with `topk` that runs beside it)."""
    bad, good = queue.Queue(), queue.Queue()  # type: tuple[Events, Events]
    service.submit(make("good", "topk"), good.put)
    service.submit(make("bad", "idle"), bad.put)
    end = last(good)
    assert isinstance(end, Step), end
    assert end.result is not None
    return last(bad), outcome(end.result)


def alone(model: Model) -> Outcome:
    return outcome(Engine(model).results([make("good", "topk")])["good"])


def columns(view: View, more: int) -> torch.Tensor:
    return torch.zeros(view.mask.shape[0], view.mask.shape[1] + more)


BAD: dict[str, Callable[[View], Any]] = {
    "state without rows": lambda view: Decision(view.eligible, state={"a": torch.zeros(0)}),
    "state with a row more": lambda view: Decision(view.eligible, state={"a": torch.zeros(len(view.step) + 1)}),
    "state with a column less": lambda view: Decision(view.eligible, state={"a": columns(view, -1)}),
    "state without a shape": lambda view: Decision(view.eligible, state={"a": torch.tensor(1.0)}),
    "state that is no mapping": lambda view: Decision(view.eligible, state=5),  # type: ignore[arg-type]
    "record that is no tensor": lambda view: Decision(view.eligible, record={"a": 3}),  # type: ignore[dict-item]
    "record with a row more": lambda view: Decision(view.eligible, record={"a": torch.zeros(len(view.step) + 1)}),
    "no decision": lambda view: None,
    "exit": lambda view: sys.exit(3),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_decision_ends_its_own_requests(
    model: Model, service: EngineService, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("tests.rogues.Idle.decide", lambda self, view, state: BAD[what](view))
    end, beside = side_by_side(service)
    assert isinstance(end, SchedulerFailedError), end
    assert "scheduler 'idle' failed: " in str(end)
    assert beside == alone(model)


def test_state_and_record_that_are_right_are_taken(service: EngineService, monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(self: object, view: View, state: State) -> Decision:
        return Decision(
            view.eligible, state={"row": view.step, "column": view.confidence}, record={"any": view.mask[:, :1]}
        )

    monkeypatch.setattr("tests.rogues.Idle.decide", decide)
    end, _ = side_by_side(service)
    assert isinstance(end, Step)


def test_needs_are_read_once(service: EngineService, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter([Needs()])
    monkeypatch.setattr("tests.rogues.Idle.needs", property(lambda self: next(asked)))
    end, beside = side_by_side(service)
    assert isinstance(end, Step)
    assert beside == alone(model)


def test_needs_that_are_none_are_refused(service: EngineService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.rogues.Idle.needs", {"top_k": 1})
    with pytest.raises(SchedulerError, match="scheduler 'idle' has needs of the type dict"):
        service.submit(make("bad", "idle"), Events().put)


def test_needs_are_bounded(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.rogues.Idle.needs", Needs(top_k=10**6))
    with pytest.raises(RequestError, match="the 1000000 most probable tokens of 288"):
        Engine(model).submit(make("bad", "idle"))
    for wrong in ({"top_k": -1}, {"top_k": "1"}, {"window": "all"}):
        with pytest.raises(ValueError, match=f"Needs.{next(iter(wrong))} must be"):
            Needs(**wrong)


def test_what_it_writes_into_the_view_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def scribble(self: object, view: View, state: State) -> Decision:
        everything = torch.ones_like(view.mask)
        for name in ("confidence", "proposal", "tokens", "positions", "block_start", "top_ids", "top_probabilities"):
            getattr(view, name).fill_(1_000_000)
        view.block_end.fill_(2_000_000)
        view.mask.fill_(False)
        view.eligible.fill_(True)
        return Decision(everything, remask=everything)

    def reveals(scheduler: str) -> tuple[Outcome, object]:
        result = Engine(model).results([make(id, scheduler) for id in ("a", "b")])["b"]
        return outcome(result), result.reveals

    monkeypatch.setattr("tests.rogues.FlipFlop.needs", Needs(remask=True, top_k=2))
    monkeypatch.setattr("tests.rogues.FlipFlop.decide", scribble)
    assert reveals("flip-flop") == reveals("greedy")


def test_an_interrupt_ends_no_thread(service: EngineService, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object, view: View, state: State) -> Decision:
        raise KeyboardInterrupt

    monkeypatch.setattr("tests.rogues.Idle.decide", interrupt)
    bad: Events = queue.Queue()
    service.submit(make("bad", "idle"), bad.put)
    assert isinstance(last(bad), EngineError)
    monkeypatch.undo()
    end, beside = side_by_side(service)
    assert isinstance(end, Step)
    assert beside == alone(model)


# --- over HTTP ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("where", ["needs", "decide", "Options"])
def test_what_would_end_a_process_is_answered(
    server: Live, monkeypatch: pytest.MonkeyPatch, where: str, end: BaseException
) -> None:
    def leave(*arguments: object) -> None:
        raise end

    monkeypatch.setattr(f"unmask.schedulers.random.Random.{where}", property(leave) if where == "needs" else leave)
    if where == "Options":
        monkeypatch.setattr("unmask.schedulers.registry.parse_options", leave)
    forget_instances()
    response = server.http.post("/generate", json={"prompt": "a", "scheduler": "random"})
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    monkeypatch.undo()
    forget_instances()
    assert server.generate(prompt="a", scheduler="random")["token_ids"]
    assert server.http.get("/health").status_code == 200


def test_a_scheduler_that_cannot_be_made_is_named(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.schedulers.random.Random.needs", property(lambda self: 1 / 0))
    forget_instances()
    response = server.http.post("/generate", json={"prompt": "a", "scheduler": "random"})
    monkeypatch.undo()
    forget_instances()
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "scheduler_failed")
    assert "scheduler 'random' failed: ZeroDivisionError" in error["message"]
