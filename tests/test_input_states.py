"""What is fed at positions that are not settled: the papers' formulas, and that it is nobody else's affair."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.fed_oracle import Rule, fed_generate, iter_smooth, residual, soft
from tests.outcomes import in_turn, outcome, outcomes
from tests.rogues import NoOptions, registered
from tests.synthetic import LLADA_CONFIG, llada_oracle, synthetic_llada
from tests.synthetic_relatives import FAMILIES, KINDS
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError, SchedulerError
from unmask.engine.input_state import OPTIONS, choose_input_state, parse_input_state
from unmask.models.loading import Model, load_model
from unmask.models.packing import PackedBatch
from unmask.models.transformer import MaskedTransformer
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, scheduler_names
from unmask.server.parse.structure import structure_of
from unmask.server.wire.generate import GenerateRequest

ROUNDING = 1e-4  # of a probability after some passes, each of which is fed what the last one computed
STATES = ("mask", "residual", "residual:alpha=0.6:temperature=0.8", "iter-smooth", "iter-smooth:initial=0.3", "soft")
REGEX = "abc[de]fgh[ij]klm?"
RULES: dict[str, Rule | None] = {
    "mask": None,
    "residual": residual(1.0, 1.0),
    "residual:alpha=0.6:temperature=0.8": residual(0.6, 0.8),
    "iter-smooth": iter_smooth(0.3, 0.15, 0.02),
    "iter-smooth:weight=2:initial=0.5:growth=0.3": iter_smooth(2.0, 0.5, 0.3),
    "soft": soft,
}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = FAMILIES[request.param](tmp_path_factory.mktemp("checkpoint") / "tiny")
    return load_model(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def make(model: Model, i: int, state: str, scheduler: str = "topk", cache: str = "none", **fields: Any) -> Request:
    block = model.network.architecture.block_size
    plain = Request(
        id=f"{scheduler}-{state}-{cache}-{i}",
        prompt=tuple(range(3, 6 + 2 * (i % 3))),
        max_tokens=(12, 9, 17)[i % 3],
        block_length=(4, 8, 5)[i % 3] if block is None else block,
        scheduler=parse_scheduler(scheduler),
        temperature=(0.0, 0.8)[i % 2],
        seed=i,
        cache=parse_cache(cache),
        input_state=parse_input_state(state),
    )
    return replace(plain, **fields)


def crowd(model: Model) -> list[Request]:
    """Every input state with every cache, and schedulers that revise, keep blocks open, draw and see everything."""
    causal = model.network.architecture.block_size is not None
    caches = ("none", "block") if causal else ("none", "prefix", "dual", "dual:refresh=2")
    schedulers = ("topk", "threshold", "joint", "remdm", "wino", "klass", "clinging")
    pairs = [(state, cache) for state in STATES for cache in caches]
    made = [
        make(model, i, state, schedulers[i % len(schedulers)], cache, min_tokens=i % 3, top_logprobs=i % 2)
        for i, (state, cache) in enumerate(pairs)
    ]
    if not causal:
        made += [make(model, 100 + i, state, "policy") for i, state in enumerate(STATES)]
    return made[::2] + made[1::2]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("state", RULES)
def test_decoding_equals_the_papers_around_a_stock_network(tmp_path: Path, state: str, cache: str) -> None:
    model = replace(load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32"), stop_ids=frozenset())
    stock = llada_oracle(LLADA_CONFIG)
    forbidden = [model.mask_id, *range(model.vocab_size, model.network.head.out_features)]
    with torch.no_grad():  # the oracle forbids nothing, so the model must not want what the engine forbids
        model.network.head.weight[forbidden] = 0
        stock.lm_head.weight[forbidden] = 0
    request = make(model, 0, state, cache=cache, prompt=tuple(range(5, 12)), max_tokens=16, block_length=4)
    found = Engine(model).results([request])[request.id].reveals
    expected = fed_generate(stock, request.prompt, 16, 4, model.mask_id, RULES[state], cache)
    assert [(one.position, one.token_id) for one in found] == [(place, token) for place, token, _ in expected]
    assert [one.probability for one in found] == pytest.approx([p for *_, p in expected], abs=ROUNDING)
    plain = fed_generate(stock, request.prompt, 16, 4, model.mask_id, None, cache)
    moved = max(abs(p - q) for (*_, p), (*_, q) in zip(expected, plain, strict=True))
    assert (moved > 10 * ROUNDING) is (state != "mask")  # or the test could not tell


@pytest.mark.parametrize(("model", "static"), [*zip(KINDS, cycle((False, True)))], indirect=["model"])
def test_alone_equals_in_a_crowd_of_every_input_state_and_cache(model: Model, static: bool) -> None:
    requests = crowd(model)
    alone = [outcomes(model, [request])[0] for request in requests]
    assert outcomes(model, requests, max_rows=6, static=static) == alone


@pytest.mark.parametrize("model", ["llada", "sdar", "llada2"], indirect=True)
def test_batch_invariant_is_exact(model: Model) -> None:
    requests, how = crowd(model), dict[str, Any](memory_fraction=0.05, batch_invariant=True)
    together = Engine(model, 8, **how).results(requests)
    for request in requests:
        alone = Engine(model, 1, **how).results([request])[request.id]
        assert (alone.reveals, alone.token_ids) == (together[request.id].reveals, together[request.id].token_ids)


@pytest.mark.parametrize(
    ("model", "state"), [*(("llada", state) for state in STATES), *in_turn(KINDS[1:], STATES)], indirect=["model"]
)
def test_exact_caches_change_nothing(model: Model, state: str) -> None:
    causal = model.network.architecture.block_size is not None
    for cache in ("block",) if causal else ("prefix:refresh=1", "dual:refresh=1"):
        for scheduler in ("topk", "joint"):
            cached = [make(model, i, state, scheduler, cache) for i in range(3)]
            plain = [make(model, i, state, scheduler) for i in range(3)]
            assert outcomes(model, cached) == outcomes(model, plain)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, bool]]]:
    """For each pass of one row: where tokens are fed other vectors, as (column, whether it is a mask)."""
    passes: list[list[tuple[int, bool]]] = []
    forward = MaskedTransformer.forward

    def noted(self: MaskedTransformer, batch: PackedBatch, *rest: Any) -> Tensor:
        index = [] if batch.given is None else batch.given.index.tolist()
        mask = LLADA_CONFIG["mask_token_id"]
        passes.append([(int(batch.positions[i]), int(batch.tokens[i]) == mask) for i in index])
        return forward(self, batch, *rest)

    monkeypatch.setattr(MaskedTransformer, "forward", noted)
    return passes


@pytest.mark.parametrize("scheduler", [*scheduler_names(), "flip-flop", "overwriting", "clinging"])
@pytest.mark.parametrize("state", ["mask", "residual", "iter-smooth", "soft"])
def test_it_begins_anew_with_blocks_and_ends_where_a_token_changes(
    llada: Model, given: list[list[tuple[int, bool]]], state: str, scheduler: str
) -> None:
    """Of each pass: masks that were masks in the block's pass before or, with soft, what was revealed in the block."""
    request = make(llada, 1, state, scheduler, prompt=(3, 4, 5), max_tokens=12, block_length=6, ignore_eos=True)
    request = replace(request, template=(None, None, 7, *[None] * 9))
    standing: dict[int, int] = {2: 7}
    expected: list[set[int]] = [set()]
    for step in Engine(llada).run([request]):
        masks = {i for i in range(12) if i not in standing}
        standing |= {one.position: one.token_id for one in (*step.revealed, *step.written)}
        standing = {position: token for position, token in standing.items() if position not in step.remasked}
        block = range(6 * step.block, 6 * step.block + 6)
        if state == "mask" or step.ended:
            expected.append(set())
        elif state == "soft":
            expected.append({i for i in block if i in standing and i != 2})
        else:
            expected.append({i for i in block if i in masks and i not in standing})
    assert len(given) == len(expected) - 1
    for places, wanted in zip(given, expected, strict=False):
        assert {column - 3 for column, _ in places} == wanted
        assert all(is_mask is (state != "soft") for _, is_mask in places)


def test_who_asks_for_none_is_computed_as_ever(llada: Model, given: list[list[tuple[int, bool]]]) -> None:
    Engine(llada).results([make(llada, i, "mask", scheduler) for i, scheduler in enumerate(("topk", "joint"))])
    assert given
    assert not any(given)


class Failing:
    """Reveals one token, then fails."""

    Options: ClassVar[type[Any]] = NoOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        if view.step.any():
            raise RuntimeError("no idea")
        return Decision(view.most_confident())


@pytest.mark.parametrize("state", ["residual", "soft"])
def test_a_step_that_fails_loses_nothing_of_other_rows(llada: Model, state: str) -> None:
    request = make(llada, 1, state)
    engine = Engine(llada)
    engine.submit(replace(make(llada, 3, "residual"), scheduler=SchedulerSpec("failing", NoOptions(), Failing())))
    engine.submit(request)
    engine.step()
    with pytest.raises(SchedulerError) as error:
        engine.step()
    for request_id in error.value.request_ids:
        engine.cancel(request_id)
    results = [step.result for step in engine.steps() if step.result is not None]
    assert [outcome(result) for result in results] == outcomes(llada, [request])


def test_what_a_structure_alone_wrote_is_fed_as_it_is(llada: Model, given: list[list[tuple[int, bool]]]) -> None:
    structure = structure_of(
        GenerateRequest.model_validate({"prompt": "a", "structured_outputs": {"regex": REGEX}}), None, ""
    )
    request = make(llada, 1, "soft", prompt=(3, 4, 5), max_tokens=12, block_length=12, structure=structure)
    free, forced = set[int](), set[int]()
    for step in Engine(llada).run([request]):
        assert {column - 3 for column, _ in given[step.index]} == free
        free |= {one.position for one in step.revealed if one.probability < 1}
        forced |= {one.position for one in step.revealed if one.probability == 1}
    assert len(forced) > 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("residuel", "did you mean 'residual'"),
        ("residual:beta=1", "unknown option 'beta'"),
        ("residual:alpha=2", "from 0 to 1, not 2"),
        ("soft:alpha=1", "unknown option 'alpha'"),
        ({"name": "iter-smooth", "weight": -1}, "from 0 to 10, not -1"),
        ({"weight": 1}, "input_state.name"),
        ({"name": "residual", "temperature": float("nan")}, "not nan"),
    ],
)
def test_what_is_wrong_is_named(given: Any, said: str) -> None:
    with pytest.raises(RequestError, match=r"input.state") as error:
        parse_input_state(given)
    assert said in str(error.value)
    assert error.value.param == "input_state"


def test_names_tell_options_and_are_read_back() -> None:
    for state in (*STATES, *OPTIONS):
        assert str(parse_input_state(state)) == state
        assert parse_input_state(parse_input_state(state).as_json()) == parse_input_state(state)


@pytest.mark.parametrize(
    ("name", "state"), [("RCD-LLaDA-8B-Instruct", "residual"), ("DMax-16B", "soft"), ("SeqD-LLaDA-RCD-8B", "mask")]
)
def test_checkpoints_that_need_one_say_so_and_have_it(
    tmp_path: Path, name: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model = load_model(str(synthetic_llada(tmp_path / name)), device="cpu", dtype="float32")
    assert choose_input_state("auto", model) == parse_input_state(state)
    assert choose_input_state("iter-smooth", model) == parse_input_state("iter-smooth")
    assert (f"{name} was trained with input state {state!r}" in caplog.text) is (state != "mask")


@pytest.mark.parametrize("state", STATES)
def test_a_scheduler_of_masks_sees_nothing_of_revealed_tokens(llada: Model, state: str) -> None:
    """Although `soft` has them predicted again; and nothing of what the next pass is fed."""
    seen: list[View] = []

    class Watcher:
        needs = Needs(top_k=2, entropy=True, hidden=True)

        def decide(self, view: View, scheduler_state: State) -> Decision:
            seen.append(view)
            return Decision(view.most_confident())

    watcher = SchedulerSpec("watcher", NoOptions(), Watcher())  # type: ignore[arg-type]
    Engine(llada).results([replace(make(llada, i, state), scheduler=watcher) for i in range(3)])
    for view in seen:
        for name in ("proposal", "confidence", "top_ids", "top_probabilities", "entropy", "hidden"):
            assert not getattr(view, name)[~view.mask].any()
        assert view.current is None
    assert any((~view.mask & view.in_block).any() for view in seen)
