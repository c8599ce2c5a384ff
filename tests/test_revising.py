"""Schedulers that write over tokens, choose among the most probable, look at what stands, and keep a block open."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.outcomes import in_turn, outcomes
from tests.rogues import registered
from tests.synthetic import synthetic_dream, synthetic_llada
from tests.synthetic_block import synthetic_llada2, synthetic_sdar
from unmask.engine import Engine, Request, Result, Step
from unmask.engine.caching import Cache, parse_cache
from unmask.engine.canvas import OPEN_PASSES
from unmask.models.loading import Model, load_model
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, top_n
from unmask.server.reply.deltas import _apply
from unmask.server.reply.native import step_data

ROUNDING = 1e-5
BLOCK = 4
FAMILIES: dict[str, Any] = {
    "llada": synthetic_llada,
    "dream": synthetic_dream,
    "sdar": lambda folder: synthetic_sdar(folder, block_size=BLOCK),
    "llada2": lambda folder: synthetic_llada2(folder, block_size=BLOCK),
}
LATER = [*FAMILIES][1:]
REVISING = ("joint", "credit", "wino", "remdm", "saber", "overwriting", "stealthy", "clinging", "choosy")


@pytest.fixture(scope="module", params=FAMILIES)
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


def make(i: int, scheduler: str, **fields: Any) -> Request:
    plain = Request(
        id=f"{scheduler}-{i}",
        prompt=tuple(range(3, 7 + i % 4)),
        max_tokens=(12, 9, 16)[i % 3],
        block_length=BLOCK,
        scheduler=parse_scheduler(scheduler),
        temperature=(0.0, 0.8)[i % 2],
        seed=i,
        top_logprobs=(0, 3)[i % 2],
    )
    return replace(plain, **fields)


def last(steps: list[Step]) -> Result:
    assert steps[-1].result is not None
    return steps[-1].result


@pytest.mark.parametrize(("model", "scheduler"), in_turn([*FAMILIES], REVISING), indirect=["model"])
def test_steps_add_up_to_the_result_and_settled_text_stays(model: Model, scheduler: str) -> None:
    """Writes are over other tokens of the block that stand already; log-probabilities are of what stands at last."""
    for i in range(4):
        request, text = make(i, scheduler), ""
        steps = list(Engine(replace(model, stop_ids=frozenset())).run([request]))
        standing: dict[int, Any] = {}
        offset = len(request.prompt) % BLOCK if model.network.architecture.block_size else 0
        for step in steps:
            inside = range(step.block * BLOCK - offset, (step.block + 1) * BLOCK - offset)
            for reveal in step.written:
                assert reveal.position in inside
                assert standing[reveal.position].token_id != reveal.token_id
                assert reveal.position not in step.remasked
                assert len(reveal.top) == request.top_logprobs
            assert step.text.startswith(text)
            text = step.text
            _apply(step, standing)
        result = last(steps)
        assert result.token_ids == tuple(standing[position].token_id for position in range(request.max_tokens))
        assert sorted(result.reveals, key=lambda one: one.position) == [one for _, one in sorted(standing.items())]
        assert [one.step for one in result.reveals] == sorted(one.step for one in result.reveals)
        assert len(steps) == result.forward_passes
        assert result.text == text == model.tokenizer.decode(result.token_ids)


@pytest.mark.parametrize("scheduler", ["joint", "overwriting"])
def test_tokens_are_written_over(model: Model, scheduler: str) -> None:
    """Or the tests of this file show nothing."""
    steps = list(Engine(model).run([make(i, scheduler) for i in range(4)]))
    assert sum(len(step.written) for step in steps) > 5


def test_what_is_not_declared_is_not_done(llada: Model) -> None:
    """Nor beside one that may."""
    stealthy, steps = make(1, "stealthy"), list[Step]()
    for step in Engine(llada).run([stealthy, make(2, "overwriting")]):
        steps += [step] if step.request_id == stealthy.id else []
    assert not any(step.written or step.remasked for step in steps)
    assert [step.index for step in steps if step.ended] == [1, 3, 4]  # two a pass, of blocks of 4, 4 and 1


@pytest.mark.parametrize(
    ("model", "scheduler"),
    [*(("llada", name) for name in ("joint", "credit", "wino", "overwriting")), *((name, "joint") for name in LATER)],
    indirect=["model"],
)
def test_alone_equals_in_a_crowd_with_every_cache(model: Model, scheduler: str) -> None:
    exact = [Cache("dual", refresh=1), Cache("prefix", refresh=1)]
    caches = [Cache(), Cache("block")] if model.network.architecture.block_size else [Cache(), *exact]
    plain = [make(i, scheduler) for i in range(3)]
    alone = [outcomes(model, [request])[0] for request in plain]
    for cache in caches:
        crowd = [replace(request, cache=cache) for request in plain]
        beside = [make(i, name) for i, name in enumerate(("topk", "klass", "entropy"))]
        assert outcomes(model, [*crowd, *beside], max_rows=4)[:3] == alone
    assert outcomes(model, crowd, batch_invariant=True) == alone
    assert outcomes(model, crowd, static=True) == alone


def test_a_block_is_open_for_some_passes_at_most(llada: Model) -> None:
    for cap in (None, 5, 20):
        request = make(0, "clinging", max_tokens=8, max_forward_passes=cap or 100, ignore_eos=True)
        steps = list(Engine(llada).run([request]))
        whole = 2 * (1 + OPEN_PASSES)
        assert len(steps) == min(cap or whole, whole)
        assert len(last(steps).token_ids) == 8
        assert steps[-1].ended
        assert not any(step.text for step in steps[:-1][:OPEN_PASSES])  # it may change until the block is over


def test_a_block_that_is_let_go_is_over_at_once(llada: Model) -> None:
    """Of `joint` without passes for editing alone, with nothing to edit."""
    request = make(0, "joint", max_tokens=8, ignore_eos=True)
    options = {"threshold": 0.0, "edit_threshold": 1.0, "post_edits": 0}
    steps = list(Engine(llada).run([replace(request, scheduler=parse_scheduler("joint", options))]))
    assert [step.ended for step in steps] == [True, True]
    looking = replace(request, scheduler=parse_scheduler("joint", options | {"post_edits": 16}))
    assert [step.ended for step in Engine(llada).run([looking])] == [False, True, False, True]


def test_choices_are_of_what_was_offered(llada: Model) -> None:
    """The second best where it is asked for, the proposal where the choice is none; each with its own probability."""
    request = make(0, "choosy", max_tokens=12, block_length=12, top_logprobs=2, ignore_eos=True)
    seconds = 0
    for step in Engine(llada).run([request]):
        for reveal in step.revealed:
            wanted = 1 if reveal.position * 1_000_003 % 7 - 2 == 1 else 0
            assert (reveal.token_id, reveal.probability) == reveal.top[wanted]
            seconds += wanted
    assert seconds


def test_what_is_forbidden_cannot_be_chosen(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fewer tokens are allowed than are offered, the others have no probability."""
    engine = Engine(llada)
    engine._forbidden[:] = True
    engine._forbidden[5] = False
    result = engine.results([make(0, "choosy", ignore_eos=True)])["choosy-0"]
    assert set(result.token_ids) == {5}


@dataclass(frozen=True)
class NoOptions:
    pass


class Watcher:
    """Reveals two tokens a pass and tells what it saw."""

    Options: ClassVar[type[Any]] = NoOptions
    needs = Needs(current=True, stops=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        assert view.current is not None
        assert view.stops is not None
        reveal = top_n(view.confidence, view.eligible, torch.full_like(view.step, 2))
        seen = {"tokens": view.tokens, "mask": view.mask, "proposal": view.proposal}
        return Decision(reveal, record={"current": view.current, "stops": view.stops, **seen})


@pytest.mark.parametrize("cache", ["none", "dual:refresh=1"])
def test_current_is_the_models_probability_of_what_stands(llada: Model, cache: str) -> None:
    model = replace(llada, stop_ids=frozenset(range(3, llada.vocab_size, 2)))
    request = Request("r", (5, 6, 7), 10, 5, SchedulerSpec("watcher", NoOptions(), Watcher()), ignore_eos=True)
    other = make(1, "topk", max_tokens=7, block_length=7)
    canvas, looked = torch.full((10,), model.mask_id), 0
    for step in Engine(model).run([other, replace(request, cache=parse_cache(cache))]):
        if step.request_id != "r":
            continue
        start, record = 5 * step.block, {name: value[:5] for name, value in step.record.items()}
        p = model.network.logits(torch.cat([torch.tensor(request.prompt), canvas])[None])[0, 3:].softmax(-1)
        expected = p.gather(1, canvas[:, None]).squeeze(1)[start : start + 5].masked_fill(record["mask"], 0.0)
        torch.testing.assert_close(record["current"], expected, atol=ROUNDING, rtol=0)
        assert record["stops"].tolist() == [token in model.stop_ids for token in record["proposal"].tolist()]
        looked += int((~record["mask"]).sum())
        for reveal in step.revealed:
            canvas[reveal.position] = reveal.token_id
    assert looked > 4


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"current": True}, r"Needs.current is about revealed tokens, which window 'masks' hides; use 'block'"),
        ({"write": True}, "Needs.write is about"),
        ({"finish": True}, "Needs.finish is about"),
        ({"choice": True}, "Needs.choice is among the most probable tokens; ask for some with Needs.top_k"),
    ],
)
def test_needs_that_contradict_each_other_are_refused(needs: dict[str, bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Needs(**needs)  # type: ignore[arg-type]


def test_events_tell_what_was_written(llada: Model) -> None:
    steps = list(Engine(llada).run([make(0, "joint")]))
    step = next(step for step in steps if step.written)
    written = step_data(step, llada)["written"]
    assert [(position, token) for position, token, *_ in written] == [
        (one.position, one.token_id) for one in step.written
    ]
    assert "written" not in step_data(steps[0], llada)
