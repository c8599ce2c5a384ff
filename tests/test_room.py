"""The memory of a pass: no more than is counted on, no more than there is, and who pays for it when it runs out."""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import finalize

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, Request, Step
from unmask.engine.caching import parse_cache
from unmask.engine.errors import NoMemoryError, RequestError
from unmask.engine.input_state import Embeddings, Shares
from unmask.engine.proposal import CHUNK_BYTES, Blend, Sampling, head_bytes, propose
from unmask.engine.room import Room
from unmask.engine.service import EngineError, EngineService, OutOfMemoryError
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.models.memory import pass_bytes
from unmask.models.packing import NetworkInputs
from unmask.schedulers import Needs, parse_scheduler

PATIENCE = 60  # seconds
CLOSE = 3  # times what a pass was seen to take may be counted on


class Peak(TorchDispatchMode):
    """The most bytes that were alive at once of what was made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in known | self._alive:
                    self._alive.add(storage._cdata)
                    self.now += storage.nbytes()
                    finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return output

    def _free(self, storage: int, size: int) -> None:
        self._alive.discard(storage)
        self.now -= size


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load("llada", tmp_path_factory.mktemp("checkpoint"))


def load(family: str, folder: Path, **changes: Any) -> Model:
    model = load_model(str(FAMILIES[family](folder, **changes)), device="cpu", dtype="float32")
    return replace(model, stop_ids=frozenset())


def make(id: str, length: int = 16, cache: str = "none") -> Request:
    return Request(id, (5,) * (length - 4), 4, 4, parse_scheduler("topk"), cache=parse_cache(cache))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_takes_what_is_counted_on(family: str, tmp_path: Path) -> None:
    model = load(family, tmp_path)
    for lengths in ([200], [64] * 8, [20] * 7 + [200]):
        taken: list[int] = []

        def forward(
            self: Engine, inputs: NetworkInputs, cache: KeyValues, recurs: bool, taken: list[int] = taken
        ) -> Tensor:
            with Peak() as peak:
                hidden = self._network.hidden(inputs, cache)
            taken.append(peak.most)
            return hidden

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Engine, "_hidden", forward)
            engine = Engine(model, max_rows=8)
            for i, length in enumerate(lengths):
                engine.submit(make(f"r{i}", length))
            engine.step()
        counted = pass_bytes(model.network.architecture, model.dtype, lengths)
        assert taken[0] <= counted < CLOSE * taken[0], (lengths, taken[0], counted)


@pytest.mark.parametrize("how", ["greedy", "drawn", "blended", "compared"])
def test_logits_take_what_is_counted_on(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, positions = 2000, 600
    monkeypatch.setattr("unmask.engine.proposal.CHUNK_BYTES", 1 << 20)
    hidden, forbidden = torch.randn(positions, 8), torch.zeros(vocabulary, dtype=torch.bool)
    head = torch.nn.Linear(8, vocabulary)
    numbers = [torch.full((positions,), value) for value in (0.5, 0.7, 0.9, 4)]
    sampling = Sampling(torch.arange(positions), *numbers) if how == "drawn" else None
    shares = Shares(numbers[0], numbers[1], torch.arange(positions) % 2 == 0)
    blend = Blend(Embeddings(torch.randn(vocabulary, 8), 0), shares) if how == "blended" else None
    compared = how == "compared"
    needs = Needs(top_k=2, entropy=compared, kl=compared)
    with torch.inference_mode(), Peak() as peak:
        propose(head, hidden, forbidden, needs, sampling, hidden.flip(0) if compared else None, blend=blend)
    assert (1 << 20) < peak.most <= head_bytes(vocabulary, positions) <= 4 << 20 < CHUNK_BYTES


@contextmanager
def memory_for(
    model: Model, lengths: Sequence[int], monkeypatch: pytest.MonkeyPatch, rows: int = 4
) -> Iterator[Engine]:
    """An engine with room for a pass over canvases of these lengths, and not for a token more."""
    a = model.network.architecture
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: pass_bytes(a, model.dtype, lengths))
    yield Engine(model, max_rows=rows)


def test_on_a_device_keys_values_and_the_head_are_counted_too(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
    room, a = Room(replace(llada, device=torch.device("cuda")), 4, 0.5), llada.network.architecture
    kept = room.columns * KeyValues.bytes_per_column(a, llada.dtype)
    assert kept > 0
    assert room.passes == (1 << 30) - kept - head_bytes(a.vocab_rows, 4 * llada.max_positions)


def test_rows_join_while_there_is_memory_for_them(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_for(llada, [40, 40], monkeypatch) as engine:
        for i in range(3):
            engine.submit(make(f"r{i}", 40))
        engine.submit(make("short", 8))
        engine.step()
        assert (engine.running, engine.waiting) == (2, 2)
        ended = [step.request_id for step in engine.run([]) if step.result is not None]
        assert sorted(ended) == ["r0", "r1", "r2", "short"]


def test_what_can_never_fit_is_refused_and_what_just_fits_is_not(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_for(llada, [40], monkeypatch) as engine:
        with pytest.raises(RequestError, match=r"a pass over 41 tokens takes .* shorten the prompt or max_tokens"):
            engine.submit(make("long", 41))
        assert set(engine.results([make("fits", 40)])) == {"fits"}


def test_keys_and_values_take_memory_when_the_first_request_keeps_some(llada: Model) -> None:
    engine = Engine(llada, max_rows=4)
    engine.results([make("none")])
    assert not engine._cache._keys
    engine.results([make("dual", cache="dual")])
    assert engine._cache._keys


def short_of_memory(limit: int) -> Callable[[Engine, NetworkInputs, KeyValues, bool], Tensor]:
    """A device that has memory for so many tokens."""
    hidden = Engine._hidden

    def forward(self: Engine, inputs: NetworkInputs, cache: KeyValues, recurs: bool) -> Tensor:
        if len(inputs.tokens) > limit:
            torch.empty(1 << 50)  # the allocator's own error
        return hidden(self, inputs, cache, recurs)

    return forward


def ends(model: Model, requests: Sequence[Request]) -> dict[str, str]:
    """How each request ended, all at once."""
    service = EngineService(Engine(model, max_rows=4), max_waiting=10)
    service.start()
    last: queue.SimpleQueue[tuple[str, Step | EngineError]] = queue.SimpleQueue()
    for request in requests:
        service.submit(request, lambda event, id=request.id: last.put((id, event)))  # type: ignore[misc]
    found: dict[str, str] = {}
    while len(found) < len(requests):
        id, event = last.get(timeout=PATIENCE)
        if isinstance(event, EngineError):
            found[id] = type(event).__name__
        elif event.result is not None:
            found[id] = event.result.finish_reason
    service.stop()
    return found


def test_where_memory_runs_out_the_longest_ends_and_the_others_go_on(
    llada: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_hidden", short_of_memory(100))
    found = ends(llada, [make("a", 30), make("long", 80), make("b", 30), make("c", 30)])
    assert found == {"a": "length", "long": OutOfMemoryError.__name__, "b": "length", "c": "length"}


def test_where_keys_and_values_find_no_memory_only_who_keeps_some_ends(
    llada: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.models.cache.KeyValues._store", lambda self: torch.empty(1 << 50))
    found = ends(llada, [make("a"), make("kept", cache="dual"), make("b")])
    assert found == {"a": "length", "kept": OutOfMemoryError.__name__, "b": "length"}


def test_who_joins_before_one_without_memory_goes_on(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.models.cache.KeyValues._store", lambda self: torch.empty(1 << 50))
    engine = Engine(llada, max_rows=4)
    for request in (make("a"), make("kept", cache="dual"), make("b")):
        engine.submit(request)
    with pytest.raises(NoMemoryError) as caught:
        engine.step()
    assert caught.value.request_ids == ("kept",)
    engine.cancel("kept")
    ended = {step.request_id: step.result.finish_reason for step in engine.run([]) if step.result is not None}
    assert ended == {"a": "length", "b": "length"}
