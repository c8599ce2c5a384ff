"""Caches and static shapes: what must be exact is, what may be approximate is Fast-dLLM's approximation, no more."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.oracle import fast_dllm_generate
from tests.outcomes import in_turn, outcome, outcomes
from tests.synthetic import LLADA_CONFIG, llada_oracle, synthetic_dream, synthetic_llada
from unmask.engine import Engine, Request
from unmask.engine.caching import Cache, advice, choose_cache, parse_cache
from unmask.engine.errors import RequestError
from unmask.engine.stopwatch import Stopwatch
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

SHAPES = [(9, 8), (24, 8), (17, 5), (12, 12), (1, 1)]  # (max_tokens, block_length)
EACH = in_turn(("llada", "dream"), scheduler_names())
CACHES = ["none", "prefix", "dual", "prefix:refresh=3", "dual:refresh=2"]


@pytest.fixture(scope="module", params=["llada", "dream"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    write = {"llada": synthetic_llada, "dream": synthetic_dream}[request.param]
    return load_model(str(write(tmp_path_factory.mktemp("checkpoints") / request.param)), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


def varied(scheduler: str, cache: str, count: int = 7) -> list[Request]:
    """Requests that differ in lengths, blocks and temperature."""
    return [
        Request(
            id=f"{scheduler}-{cache}-{i}",
            prompt=tuple(range(3, 4 + 2 * i)),  # the first is one token long: a shifted block then starts at column 0
            max_tokens=SHAPES[i % len(SHAPES)][0],
            block_length=SHAPES[i % len(SHAPES)][1],
            scheduler=parse_scheduler(scheduler, {"threshold": 0.02} if scheduler == "threshold" else {}),
            temperature=(0.0, 0.9)[i % 2],
            seed=i,
            cache=parse_cache(cache),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(("model", "scheduler"), EACH, indirect=["model"])
@pytest.mark.parametrize("cache", ["prefix:refresh=1", "dual:refresh=1"])
def test_refreshing_at_every_step_equals_no_cache(model: Model, scheduler: str, cache: str) -> None:
    assert outcomes(model, varied(scheduler, cache)) == outcomes(model, varied(scheduler, "none"))


@pytest.mark.parametrize("dual", [False, True], ids=["prefix", "dual"])
def test_cached_decoding_equals_fast_dllm_around_a_stock_network(tmp_path: Path, dual: bool) -> None:
    model = replace(load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32"), stop_ids=frozenset())
    stock = llada_oracle(LLADA_CONFIG)
    forbidden = [model.mask_id, *range(model.vocab_size, model.network.head.out_features)]
    with torch.no_grad():  # the published loop forbids nothing, so the model must not want what the engine forbids
        model.network.head.weight[forbidden] = 0
        stock.lm_head.weight[forbidden] = 0
    (request, *_) = varied("topk", "dual" if dual else "prefix", 1)
    request = replace(request, prompt=tuple(range(5, 16)), max_tokens=24, block_length=8)
    expected = fast_dllm_generate(stock, request.prompt, 24, 8, model.mask_id, dual)
    uncached = replace(request, id="uncached", cache=Cache())
    found = Engine(model).results([request, uncached])
    assert list(found[request.id].token_ids) == expected
    assert list(found["uncached"].token_ids) != expected  # or the test could not tell


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_rows_with_every_cache_in_one_batch_equal_alone(model: Model, static: bool) -> None:
    requests = [request for cache in CACHES for request in varied("topk", cache, 5)]
    requests = requests[::2] + requests[1::2]  # so that rows with and without slots join and leave by turns
    alone = [outcomes(model, [request])[0] for request in requests]
    assert outcomes(model, requests, max_rows=4, static=static) == alone


@pytest.mark.parametrize(("model", "scheduler"), EACH, indirect=["model"])
def test_static_shapes_equal_plain_ones(model: Model, scheduler: str) -> None:
    requests = [*varied(scheduler, "dual"), *varied(scheduler, "none")]
    engine = Engine(model, max_rows=5, static=True)
    for _ in range(3):
        found = engine.results(requests)
    assert engine._graphs is not None
    assert len(engine._graphs)
    assert [outcome(found[request.id]) for request in requests] == outcomes(model, requests)


@pytest.mark.gpu
@pytest.mark.parametrize("scheduler", scheduler_names())
def test_captured_steps_equal_plain_ones(tmp_path: Path, scheduler: str) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cuda", dtype="float32")
    requests = [*varied(scheduler, "dual"), *varied(scheduler, "none")]
    engine = Engine(model, max_rows=5, static=True)
    for _ in range(4):
        found = engine.results(requests)
    assert engine._graphs is not None
    assert len(engine._graphs)
    assert [outcome(found[request.id]) for request in requests] == outcomes(model, requests, static=False)


@pytest.mark.gpu
def test_a_captured_step_is_replayed_for_its_own_scheduler_only(tmp_path: Path) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cuda", dtype="float32")
    engine = Engine(model, static=True)
    for scheduler in ("topk", "random", "topk"):  # neither has options or needs that would tell their steps apart
        requests = varied(scheduler, "none")
        for _ in range(4):
            found = engine.results(requests)
        assert [outcome(found[request.id]) for request in requests] == outcomes(model, requests, static=False)


def test_a_pass_computes_what_its_cache_leaves_to_compute(model: Model) -> None:
    reach = model.network.architecture.reach
    for cache, later in (("none", 32), ("prefix", 24 + reach), ("dual", 8 + reach)):
        (request, *_) = varied("topk", cache, 1)
        watch = Stopwatch()
        engine = Engine(model, watch=watch)
        engine.submit(replace(request, prompt=tuple(range(3, 11)), max_tokens=24, block_length=8))
        engine.step()
        assert watch.tokens == 32
        engine.step()
        assert watch.tokens == 32 + later


@pytest.mark.parametrize("block_length", [8, 16])
def test_a_longer_row_leaves_others_their_keys(llada: Model, block_length: int) -> None:
    short = [replace(row, max_tokens=48, block_length=block_length) for row in varied("topk", "dual", 3)]
    long = replace(short[0], id="long", max_tokens=150)
    engine = Engine(llada)
    for request in short:
        engine.submit(request)
    for _ in range(3):
        engine.step()
    capacity = engine._cache.capacity
    found = engine.results([long])
    assert engine._cache.capacity > capacity  # so that slots moved
    assert [outcome(found[request.id]) for request in short] == outcomes(llada, short)


def test_rows_wait_until_keys_and_values_have_room(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    per_column = KeyValues.bytes_per_column(llada.network.architecture, llada.dtype)
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
    engine = Engine(
        llada, max_rows=8, memory_fraction=(2 * 64 + 0.5) * per_column / (1 << 30)
    )  # two slots of 64 columns
    requests = varied("topk", "dual")
    for request in requests:
        engine.submit(request)
    engine.step()
    assert engine.running == 2
    found = {step.request_id: step.result for step in engine.run([]) if step.result is not None}
    assert len(found) >= len(requests) - 2
    long = replace(requests[0], max_tokens=150)
    with pytest.raises(RequestError, match=r"has room for 128 tokens and the request has 151.*--memory-fraction"):
        engine.submit(long)
    engine.submit(replace(long, cache=Cache()))


@pytest.mark.parametrize("text", ["", "dial", "dual:", "dual:every=3", "dual:refresh=0", "none:refresh=2", "Dual"])
def test_unknown_caches_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"the caches are|write for example") as caught:
        parse_cache(text)
    assert caught.value.param == "cache"
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["none", "prefix", "dual", "dual:refresh=12", "block"])
def test_caches_read_as_they_are_written(text: str) -> None:
    assert str(parse_cache(text)) == text


def test_a_cache_for_other_models_is_refused(llada: Model) -> None:
    with pytest.raises(RequestError, match=r"'block' is not for this model.*use none or prefix or dual"):
        choose_cache("block", llada.network.architecture)
    assert choose_cache("auto", llada.network.architecture) == Cache()


def test_a_server_without_a_cache_names_dual_where_rows_gain_nothing(llada: Model) -> None:
    a = llada.network.architecture
    assert "--cache dual" in advice(Cache("none"), a, "cuda")
    others = [(Cache("dual"), a, "cuda"), (Cache("none"), a, "cpu"), (Cache("none"), replace(a, block_size=4), "cuda")]
    assert [advice(*other) for other in others] == ["", "", ""]


def test_rows_that_leave_between_steps_leave_their_slots(llada: Model) -> None:
    """As clients do: what is kept of others moves outside of a step."""
    requests = varied("topk", "dual", 3)
    expected = outcomes(llada, requests[1:])
    engine = Engine(llada)
    for request in requests:
        engine.submit(request)
    engine.step()
    assert engine.cancel(requests[0].id) is not None
    found = {step.request_id: step.result for step in engine.run([]) if step.result is not None}
    assert [outcome(found[request.id]) for request in requests[1:]] == expected
