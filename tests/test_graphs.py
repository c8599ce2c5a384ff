"""Captured passes: replayed without Python they give what plain ones give; one that fails costs nobody an answer."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.outcomes import outcome, outcomes
from tests.rogues import ROGUES, registered
from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, Request, Result
from unmask.engine.batch import Batch
from unmask.engine.caching import parse_cache
from unmask.engine.decided import Decided
from unmask.engine.graphs import GRAPH_TOKENS, MAX_FAILURES, MAX_GRAPHS, MAX_SEEN, Graphs
from unmask.engine.groups import GroupInputs
from unmask.engine.plan import StepInputs
from unmask.engine.recording import CUDARecorder, Replay, TapeRecorder
from unmask.engine.transfer import pack, unpack
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

CAPTURABLE = ("llada", "dream", "sdar", "fast_dllm")  # the engine captures no experts
ROUNDS = 4  # the third equal pass is captured, from the fourth on it is replayed


@pytest.fixture(scope="module", params=CAPTURABLE)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load("llada", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def load(family: str, folder: Path) -> Model:
    return load_model(str(FAMILIES[family](folder)), device="cpu", dtype="float32")


def told(result: Result) -> tuple[object, ...]:
    order = [(reveal.position, reveal.token_id, reveal.step) for reveal in result.reveals]
    return result.token_ids, result.text, result.finish_reason, result.forward_passes, order


def mixed(model: Model) -> list[Request]:
    """Every scheduler and cache, and one scheduler that keeps a state; half are drawn, some tell log-probabilities."""
    block = model.network.architecture.block_size
    caches = cycle(("none", "prefix", "dual", "dual:refresh=2") if block is None else ("none", "block"))
    counting = parse_scheduler("counting", {"every": 1})
    specs = [*(parse_scheduler(name) for name in scheduler_names() if name not in ROGUES), counting]
    return [
        Request(
            id=spec.name,
            prompt=tuple(range(3, 8 + i % 4)),
            max_tokens=4,
            block_length=2,
            scheduler=spec,
            temperature=(0.0, 0.7)[i % 2],
            seed=i,
            cache=parse_cache(next(caches)),
            top_logprobs=(0, 2, 0)[i % 3],
        )
        for i, spec in enumerate(specs)
        if spec.scheduler().needs.window != "generation"
    ]


def differing(model: Model, requests: Sequence[Request]) -> list[str]:
    """Who gets another answer where passes are captured and replayed."""
    expected = {id: told(result) for id, result in Engine(model, max_rows=3).results(requests).items()}
    engine = Engine(model, max_rows=3, static=True)
    rounds = [engine.results(requests) for _ in range(ROUNDS)]
    assert engine._graphs is not None
    assert len(engine._graphs)
    return [id for found in rounds for id, result in found.items() if told(result) != expected[id]]


def test_replays_without_python_equal_plain_passes(model: Model) -> None:
    assert not differing(model, mixed(model))


def test_a_state_that_a_replay_would_lose_is_seen(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above, on an engine that captures the first step of a scheduler that keeps a state: it must notice."""
    decide = Engine._propose_and_choose
    like: dict[torch.Size, Decided] = {}

    def captured(
        self: Engine, batch: Batch, hidden: Tensor, inputs: StepInputs, groups: tuple[GroupInputs, ...]
    ) -> Decided:
        shape = inputs.window.tokens.shape

        def decided(fixed: tuple[Tensor, StepInputs]) -> Tensor:
            like[shape] = decide(self, batch, *fixed, groups)
            return pack(like[shape])

        if self._graphs is None or batch.groups._states:
            return decide(self, batch, hidden, inputs, groups)
        return unpack(self._graphs.run("step", (hidden, inputs), decided), like[shape])

    monkeypatch.setattr(Engine, "_propose_and_choose", captured)
    counting = [request for request in mixed(llada) if request.id == "counting"]
    alike = [
        replace(counting[0], id=f"counting{i}", temperature=0.0, top_logprobs=0, max_tokens=12, block_length=12)
        for i in range(6)
    ]
    assert differing(llada, alike)


def test_a_capture_that_fails_is_remembered_and_costs_nobody_an_answer(
    llada: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked = 0

    def look(module: torch.nn.Module, args: Any, output: Tensor) -> None:
        nonlocal looked
        looked += bool(output.sum().item() < 0) + 1

    requests = [replace(request, max_forward_passes=2) for request in mixed(llada)[:3]]
    plain = outcomes(llada, requests)
    hook = llada.network.norm.register_forward_hook(look)
    try:
        engine = Engine(llada, max_rows=3, static=True)
        with caplog.at_level(logging.WARNING):
            rounds = [engine.results(requests) for _ in range(8)]
    finally:
        hook.remove()
    assert looked
    assert [[outcome(found[request.id]) for request in requests] for found in rounds] == [plain] * 8
    assert engine._graphs is not None
    assert not len(engine._graphs)
    warned = [record for record in caplog.records if "cannot be captured" in record.message]
    assert 1 <= len(warned) <= MAX_FAILURES


def never(work: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
    raise AssertionError("not to be captured")


def ran(graphs: Graphs, size: int, times: int = 1) -> Counter[str]:
    """How often a pass over so many tokens ran as it is."""
    count: Counter[str] = Counter()

    def forward(inputs: tuple[Tensor]) -> Tensor:
        count["python"] += 1
        return inputs[0] * 2

    for i in range(times):
        assert torch.equal(graphs.run("key", (torch.full((size,), i),), forward), torch.full((size,), 2 * i))
    return count


def test_the_third_equal_pass_is_captured_and_no_other() -> None:
    graphs = Graphs(TapeRecorder())
    assert ran(graphs, 5, times=9)["python"] == 3
    assert ran(graphs, 6, times=2)["python"] == 2
    assert len(graphs) == 1


def test_the_graph_that_was_used_least_recently_makes_room() -> None:
    graphs = Graphs(TapeRecorder())
    for size in range(1, MAX_GRAPHS + 1):
        ran(graphs, size, times=3)
    assert ran(graphs, 1)["python"] == 0  # so that 2 is the least recently used
    ran(graphs, MAX_GRAPHS + 1, times=3)
    assert len(graphs) == MAX_GRAPHS
    assert ran(graphs, 1)["python"] == 0
    assert ran(graphs, 2, times=4)["python"] == 3  # and comes again by the same door


def test_what_is_counted_is_bounded() -> None:
    graphs = Graphs(never)
    for size in range(1, 3 * MAX_SEEN):
        ran(graphs, size)
    assert len(graphs._runs) == MAX_SEEN


def test_where_no_capture_succeeds_none_is_tried_for_long() -> None:
    tried = 0

    def failing(work: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        nonlocal tried
        tried += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(failing)
    for size in range(1, 20):
        assert ran(graphs, size, times=6)["python"] == 6
    assert tried == MAX_FAILURES


@pytest.mark.parametrize("read", [torch.Tensor.item, torch.Tensor.nonzero, torch.Tensor.__bool__, lambda x: x[x > 0]])
def test_a_tape_refuses_what_waits_for_the_device(read: Callable[[Tensor], object]) -> None:
    def work() -> Tensor:
        read(torch.ones(1))
        return torch.ones(1)

    with pytest.raises(RuntimeError, match="waits for the device"):
        TapeRecorder()(work)


class FakeGraph:
    """torch.cuda.graph as far as it matters: ends the capture before it leaves the stream, and the end may fail."""

    def __init__(self, cuda: "FakeCUDA", end_fails: bool):
        self.cuda, self.end_fails = cuda, end_fails

    def __enter__(self) -> None:
        self.cuda.stream, self.cuda.recording = "capture", True

    def __exit__(self, *exception: object) -> None:
        if self.end_fails:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.cuda.recording = False
        self.cuda.stream = "main"


class FakeCUDA:
    stream, recording, pools = "main", False, 0

    def __init__(self) -> None:
        self.cards: list[int] = []

    @contextmanager
    def card(self, index: int) -> Iterator[None]:
        self.cards.append(index)
        yield

    def end_pool(self, device: int, pool: int) -> None:
        if not self.recording:
            raise RuntimeError("not recording")
        self.recording = False

    def pool(self) -> int:
        self.pools += 1
        return self.pools


@pytest.mark.parametrize("end_fails", [False, True], ids=["python fails", "capture fails"])
def test_after_a_failed_capture_cuda_is_as_it_was(monkeypatch: pytest.MonkeyPatch, end_fails: bool) -> None:
    cuda = FakeCUDA()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, pool: FakeGraph(cuda, end_fails))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: cuda.stream)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(cuda, "stream", stream))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", cuda.pool)
    monkeypatch.setattr(torch.cuda, "device", cuda.card)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", cuda.end_pool, raising=False)
    record = CUDARecorder(torch.device("cuda", 1))

    def work() -> Tensor:
        raise ValueError("planted")

    with pytest.raises(RuntimeError if end_fails else ValueError):
        record(work)
    assert (cuda.stream, cuda.recording) == ("main", False)
    assert cuda.cards == [1]  # where the model is, and not the first
    assert cuda.pools == 2  # the old one may hold what the capture left


def test_large_passes_are_neither_padded_nor_captured(llada: Model) -> None:
    engine = Engine(llada, max_rows=24, static=True)
    long = [Request(f"r{i}", (5,) * 40, 8, 8, parse_scheduler("topk")) for i in range(24)]
    assert GRAPH_TOKENS < 24 * 48
    for _ in range(3):
        engine.results(long)
    assert engine._graphs is not None
    assert not len(engine._graphs)
