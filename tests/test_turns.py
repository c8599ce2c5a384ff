"""Who gets the next row: clients take turns, and the parts of each. Held by the order of grants, never by a clock."""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live import PATIENCE, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.engine import Engine, Request, Step
from unmask.engine.caching import parse_cache
from unmask.engine.canvas import Canvas
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler

ROWS = 2
CHOICES = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("model"))), device="cpu", dtype="float32")


def make(client: str, i: int) -> Request:
    """One token, so a request ends with the step at which it gets its row. `a.b` is part b of client a."""
    path = tuple(client.split(".")) if client else ()
    return Request(f"{client}{i}", (3, 4), 1, 1, parse_scheduler("topk"), client=path)


def submit(engine: Engine, **calls: int) -> None:
    for client, count in calls.items():
        for i in range(count):
            engine.submit(make(client.replace("_", "."), i))


def granted(engine: Engine, steps: int = 1000) -> str:
    """The requests that get the next rows, in order."""
    order: list[str] = []
    while engine.waiting and len(order) < steps:
        order += [step.request_id for step in engine.step()]
    return " ".join(order)


def test_calls_take_turns(model: Model) -> None:
    engine = Engine(model, max_rows=1)
    submit(engine, a=5, b=2, c=1)
    assert granted(engine) == "a0 b0 c0 a1 b1 a2 a3 a4"


def test_keys_take_turns_and_then_the_calls_of_each(model: Model) -> None:
    engine = Engine(model, max_rows=1)
    submit(engine, k_a=3, k_b=2, l_c=4)
    assert granted(engine) == "k.a0 l.c0 k.b0 l.c1 k.a1 l.c2 k.b1 l.c3 k.a2"


def test_without_a_client_who_came_first_is_served_first(model: Model) -> None:
    engine = Engine(model, max_rows=1)
    for i in (3, 1, 2):
        engine.submit(make("", i))
    assert granted(engine) == "3 1 2"


def test_who_comes_late_waits_for_one_turn_of_each(model: Model) -> None:
    engine = Engine(model, max_rows=1)
    submit(engine, a=5, b=5)
    assert granted(engine, 3) == "a0 b0 a1"
    submit(engine, c=2)
    assert granted(engine) == "b1 a2 c0 b2 a3 c1 b3 a4 b4"


def test_who_leaves_changes_nobodys_turn(model: Model) -> None:
    engine = Engine(model, max_rows=1)
    submit(engine, a=3, b=2, c=2)
    for gone in ("a0", "b0", "b1"):
        step = engine.cancel(gone)
        assert step is not None
        assert step.result is not None
        assert step.result.finish_reason == "cancelled"
    assert engine.cancel("b1") is None
    assert engine.waiting == 4
    assert granted(engine) == "a1 c0 a2 c1"


def test_rows_that_get_free_together_are_shared(model: Model) -> None:
    engine = Engine(model, max_rows=4)
    submit(engine, a=8, b=1, c=1)
    assert granted(engine, 4) == "a0 b0 c0 a1"


def test_who_needs_memory_is_neither_passed_nor_starved(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    free, column = 1 << 40, KeyValues.bytes_per_column(model.network.architecture, model.dtype)
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: free)
    share = 192 * column / free  # of the memory: three short slots, or one long
    engine, dual = Engine(model, max_rows=4, memory_fraction=share), parse_cache("dual")
    scheduler = parse_scheduler("topk")
    engine.submit(Request("short", (3,), 8, 8, scheduler, cache=dual, client=("a",)))
    engine.submit(Request("long", (3,) * 100, 8, 8, scheduler, cache=dual, client=("b",)))
    engine.submit(Request("plain", (3,), 8, 8, scheduler, client=("c",)))
    engine.submit(Request("next", (3,), 8, 8, scheduler, cache=dual, client=("a",)))
    assert order_of_starts(engine.run([])) == ["short", "long", "plain", "next"]


def order_of_starts(steps: Iterable[Step]) -> Sequence[str]:
    return [step.request_id for step in steps if step.index == 0]


@pytest.mark.parametrize("keys", [(), ("one", "other")])
def test_a_short_request_beside_one_with_many_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]
) -> None:
    """It gets the next row but those that the other holds, and the other ends no more choices meanwhile than fit."""
    headers = [{"Authorization": f"Bearer {key}"} for key in keys] or [{}, {}]
    big = {"prompt": "a", "n": CHOICES, "max_tokens": 48, "scheduler": "random", "ignore_eos": True, "stream": True}
    with live(synthetic_llada(tmp_path / "tiny"), max_rows=ROWS, api_key=keys) as server:
        service = server.app.state.backend.service
        engine, gate = service.engine, threading.Event()
        step, enqueue = engine.step, engine.enqueue
        callers: dict[str, tuple[str, ...]] = {}
        ends: list[tuple[str, ...]] = []  # whose requests have ended, in that order

        def noted(canvas: Canvas) -> None:
            request = canvas.request
            callers[request.id] = (request.client or (request.id,))[:2]
            enqueue(canvas)

        def recorded() -> list[Step]:
            steps: list[Step] = step()
            ends.extend(callers[one.request_id] for one in steps if one.result is not None)
            if ends:
                gate.wait(PATIENCE)  # until the short one waits, too
            return steps

        monkeypatch.setattr(engine, "step", recorded)
        monkeypatch.setattr(engine, "enqueue", noted)
        with server.http.stream("POST", "/v1/completions", json=big, headers=headers[0]), ThreadPoolExecutor() as pool:
            wait_for(lambda: bool(ends))
            before, waiting = len(ends), service.waiting
            short = {"prompt": "a", "max_tokens": 4, "seed": 1}
            asking = pool.submit(server.http.post, "/generate", json=short, headers=headers[1])
            wait_for(lambda: service.waiting > waiting)
            known = set(callers)
            gate.set()
            assert asking.result().status_code == 200
        (mine,) = (id for id in callers if id not in known)
        assert ends.index(callers[mine]) - before <= 2 * ROWS
