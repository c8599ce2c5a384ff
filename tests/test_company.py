"""A view holds what its scheduler asks for, whatever else the batch needs; and slots, what a pass reads of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.outcomes import outcomes
from tests.rogues import NoOptions
from tests.synthetic import synthetic_llada
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, top_n


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = synthetic_llada(tmp_path_factory.mktemp("checkpoint"))
    return load_model(str(folder), device="cpu", dtype="float32")


NOSY = Needs(stops=True, current=True, hidden=True, window="block")


class Curious:
    """Notes what it is shown."""

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, needs: Needs):
        self.needs = needs
        self.shown: set[tuple[int, ...]] = set()

    def decide(self, view: View, state: State) -> Decision:
        tops = 0 if view.top_probabilities is None else view.top_probabilities.shape[-1]
        self.shown.add((tops, *(one is not None for one in (view.entropy, view.stops, view.current, view.hidden))))
        return Decision(view.most_confident())


@pytest.mark.parametrize(
    ("needs", "shown"),
    [
        (Needs(), (0, False, False, False, False)),
        (Needs(top_k=2, entropy=True), (2, True, False, False, False)),
        (Needs(stops=True, current=True, window="block"), (0, False, True, True, False)),
        (Needs(hidden=True), (0, False, False, False, True)),
    ],
)
def test_a_scheduler_sees_no_statistics_of_its_neighbours(llada: Model, needs: Needs, shown: tuple[int, ...]) -> None:
    curious = Curious(needs)
    one = Request("one", (3, 4, 5), 8, 4, SchedulerSpec("curious", NoOptions(), curious))
    other = replace(one, id="other", scheduler=parse_scheduler("entropy"), top_logprobs=5)
    nosy = replace(one, id="nosy", scheduler=SchedulerSpec("nosy", NoOptions(), Curious(NOSY)))
    Engine(llada).results([one, other, nosy])
    assert curious.shown == {shown}


def test_one_cached_row_beside_others_has_the_slots_that_are_read(
    llada: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_column = KeyValues.bytes_per_column(llada.network.architecture, llada.dtype)
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
    plain = Request("plain", (3, 4, 5), 16, 8, parse_scheduler("topk"), ignore_eos=True)
    requests = [plain, replace(plain, id="dual", cache=parse_cache("dual"))]
    for slots, fits in ((1, False), (2, True)):
        engine = Engine(llada, max_rows=2, memory_fraction=(slots * 64 + 0.5) * per_column / (1 << 30), static=True)
        if fits:
            assert set(engine.results(requests)) == {"plain", "dual"}
        else:
            with pytest.raises(RequestError, match="has room for 32 tokens"):
                engine.submit(requests[1])
    assert outcomes(llada, requests, static=True) == outcomes(llada, requests)


@dataclass(frozen=True)
class Limit:
    most: int = 1


class Scribbler:
    """Reveals as many tokens a pass as its option says, and then writes another number into it."""

    Options: ClassVar[type[Any]] = Limit
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        reveal = top_n(view.confidence, view.eligible, view.options["most"])
        view.options["most"].fill_(100)
        return Decision(reveal)


def test_what_a_scheduler_writes_into_its_options_is_gone_at_the_next_step(llada: Model) -> None:
    spec = SchedulerSpec("scribbler", Limit(), Scribbler())
    steps = list(Engine(llada).run([Request("a", (5, 6, 7), 6, 6, spec)]))
    assert all(len(step.revealed) == 1 for step in steps)
