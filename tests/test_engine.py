"""The engine's eight invariants (DESIGN, section 3) and the laws of decoding, over every scheduler and model family."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracle import llada_generate
from tests.outcomes import in_turn, outcome
from tests.rogues import ROGUES, registered
from tests.synthetic import synthetic_dream, synthetic_llada
from unmask.engine import Engine, Request, Result, Reveal, Step
from unmask.engine.canvas import Canvas
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.models.packing import PackedBatch
from unmask.schedulers import Needs, parse_scheduler, scheduler_names

BUILT_IN = scheduler_names()
MODELS = ("llada", "dream")
SHAPES = [(9, 8), (24, 8), (17, 5), (12, 12), (1, 1)]  # (max_tokens, block_length): ragged, full diffusion, one token
ROUNDING = 1e-5  # probabilities of equal rows in batches of different shapes


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    write = {"llada": synthetic_llada, "dream": synthetic_dream}[request.param]
    return load_model(str(write(tmp_path_factory.mktemp("checkpoints") / request.param)), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def make(i: int = 0, scheduler: str = "topk", **fields: Any) -> Request:
    """A request that differs from the others with other i."""
    options = fields.pop("options", {})
    plain = Request(
        id=f"r{i}",
        prompt=tuple(range(3, 8 + i % 5)),
        max_tokens=12,
        block_length=4,
        scheduler=parse_scheduler(scheduler, options),
        seed=i,
    )
    return replace(plain, **fields)


def varied(scheduler: str, count: int = 8) -> list[Request]:
    """Requests that differ in lengths, blocks, temperature, filters and seed."""
    return [
        make(
            i,
            scheduler,
            max_tokens=SHAPES[i % len(SHAPES)][0],
            block_length=SHAPES[i % len(SHAPES)][1],
            temperature=(0.0, 0.7, 1.3)[i % 3],
            top_p=(1.0, 0.8)[i % 2],
            top_k=(0, 20)[i // 2 % 2],
        )
        for i in range(count)
    ]


def alone(model: Model, request: Request) -> Result:
    return Engine(model).results([request])[request.id]


def last(steps: list[Step]) -> Result:
    assert steps[-1].result is not None
    return steps[-1].result


# --- invariant 1: reveal only eligible masked positions; never touch the prompt or a settled block


@pytest.mark.parametrize(("model", "scheduler"), in_turn(MODELS, [*BUILT_IN, *ROGUES]), indirect=["model"])
def test_reveals_each_position_of_the_block_once(model: Model, scheduler: str) -> None:
    engine = Engine(model)
    for request in varied(scheduler, 5):
        cap = replace(request, max_forward_passes=30)
        visible: set[int] = set()
        for step in engine.run([cap]):
            positions = {reveal.position for reveal in step.revealed}
            block = step.block * cap.block_length
            inside = range(block, min(block + cap.block_length, cap.max_tokens))
            assert positions.isdisjoint(visible)
            assert step.index == 29 or positions <= set(inside)
            assert set(step.remasked) <= visible & set(inside)
            visible = (visible | positions) - set(step.remasked)


def test_a_narrow_block_beside_a_wide_one_stays_narrow(llada: Model) -> None:
    narrow, wide = make(0, "greedy", block_length=3), make(1, block_length=12)
    for step in Engine(llada).run([narrow, wide]):
        if step.request_id == narrow.id:
            assert [reveal.position // 3 for reveal in step.revealed] == [step.block] * 3


def test_a_prompt_with_mask_tokens_stays_as_it_is(llada: Model) -> None:
    prompt = (3, llada.mask_id, 4, llada.mask_id)
    engine = Engine(llada)
    engine.submit(make(prompt=prompt, scheduler="greedy"))
    engine.step()
    assert engine._batches[0].canvases[0].ids[: len(prompt)].tolist() == list(prompt)


# --- invariant 2: progress per row


def test_a_row_that_reveals_nothing_reveals_its_most_confident(llada: Model) -> None:
    idle, best = make(0, "idle"), replace(make(0, "topk"), id="best")
    steps = list(Engine(llada).run([idle, best, make(1, "greedy")]))
    revealed = {id: [s.revealed for s in steps if s.request_id == id] for id in (idle.id, "best")}
    assert [r[0].position for r in revealed[idle.id]] == [r[0].position for r in revealed["best"]]
    assert all(len(r) == 1 for r in revealed[idle.id])


# --- invariant 3: a cap on forward passes


@pytest.mark.parametrize("scheduler", ["topk", "flip-flop"])
def test_at_the_cap_everything_left_is_revealed(llada: Model, scheduler: str) -> None:
    result = alone(llada, make(scheduler=scheduler, max_tokens=20, max_forward_passes=3))
    assert result.forward_passes == 3
    assert len(result.token_ids) == 20 or result.finish_reason == "stop"


def test_even_without_a_cap_asked_for_remasking_ends(llada: Model) -> None:
    assert alone(llada, make(scheduler="flip-flop")).forward_passes <= 4 * 12


# --- invariant 4: neither the mask token nor ids beyond the tokenizer are proposed


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_never_proposes_what_has_no_text(tmp_path: Path, temperature: float) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32")
    forbidden = [model.mask_id, *range(model.vocab_size, model.network.head.out_features)]
    assert len(forbidden) > 1
    with torch.no_grad():  # the head wants nothing more than what it may not have
        model.network.head.weight[forbidden] = 40 * model.network.head.weight[3]
        model.network.head.weight[forbidden[::2]] *= -1
    for step in Engine(model).run([make(i, temperature=temperature, max_tokens=24) for i in range(4)]):
        assert not {reveal.token_id for reveal in step.revealed} & set(forbidden)


# --- invariant 5: a result depends on the request alone


@pytest.mark.parametrize("scheduler", [*BUILT_IN, "counting", "second-thoughts"])
def test_batched_equals_alone(model: Model, scheduler: str) -> None:
    requests = varied(scheduler)
    together = Engine(model).results(requests)
    assert [outcome(together[r.id]) for r in requests] == [outcome(alone(model, r)) for r in requests]


def test_requests_that_differ_in_everything_and_join_late_equal_alone(model: Model) -> None:
    options: dict[str, dict[str, object]] = {
        "counting": {"label": "b", "every": 3},
        "topk": {"n": 3},
        "random": {"steps": 5},
        "threshold": {"threshold": 0.01},
    }
    names = [*BUILT_IN, "counting", "second-thoughts"]
    requests = [
        replace(
            varied(names[i % len(names)], 16)[i],
            scheduler=parse_scheduler(names[i % len(names)], options.get(names[i % len(names)], {})),
        )
        for i in range(16)
    ]
    engine = Engine(model, max_rows=5)
    found: dict[str, Result] = {}
    for i, request in enumerate(requests):
        engine.submit(request)
        if i % 2:
            found |= {s.request_id: s.result for s in engine.step() if s.result}
    found |= {s.request_id: s.result for s in engine.run([]) if s.result}
    assert [outcome(found[r.id]) for r in requests] == [outcome(alone(model, r)) for r in requests]


@pytest.mark.parametrize(("model", "scheduler"), in_turn(MODELS, BUILT_IN), indirect=["model"])
def test_same_seed_same_text_and_another_seed_another(model: Model, scheduler: str) -> None:
    first, again, other = (
        alone(model, make(scheduler=scheduler, temperature=1.5, seed=seed, max_tokens=24)) for seed in (5, 5, 6)
    )
    assert outcome(first) == outcome(again)
    assert first.token_ids != other.token_ids


# --- invariant 6: end of text ends the request


def biased_to_stop(model: Model, positions: slice) -> Model:
    """The same model, whose head writes an end of text at some positions of the canvas of `make(0)`."""
    network, stop = model.network, min(model.stop_ids)

    class Stopping(torch.nn.Module):
        architecture, split = network.architecture, network.split

        def forward(self, batch: PackedBatch, cache: KeyValues) -> Tensor:
            wants = torch.zeros(len(make().prompt) + 40, dtype=torch.bool)
            wants[positions] = True
            self.wants = wants[batch.positions[batch.wanted]]
            return network(batch, cache)

        def head(self, hidden: Tensor) -> Tensor:
            logits = network.head(hidden)
            logits[..., stop] = torch.where(self.wants, 50.0, -50.0)
            return logits

    return replace(model, network=Stopping())  # type: ignore[arg-type]


def test_end_of_text_ends_the_request_before_later_blocks(llada: Model) -> None:
    start = len(make().prompt)
    model = biased_to_stop(llada, slice(start + 5, None))
    result = alone(model, make(max_tokens=40, block_length=4))
    assert result.finish_reason == "stop"
    assert len(result.token_ids) == 5
    assert result.forward_passes <= 8


def test_end_of_text_that_is_not_settled_does_not_end_the_request(llada: Model) -> None:
    start = len(make().prompt)
    model = biased_to_stop(llada, slice(start + 11, start + 12))
    steps = list(Engine(model).run([make(max_tokens=12, block_length=12)]))
    assert steps[0].revealed[0].position == 11
    assert len(steps) == 12
    assert len(last(steps).token_ids) == 11


# --- invariant 7: no host synchronisation inside the step beyond one read


@pytest.mark.gpu
def test_one_read_a_step(tmp_path: Path) -> None:
    engine = Engine(load_model(str(synthetic_llada(tmp_path)), device="cuda"))
    for request in varied("threshold"):
        engine.submit(request)
    engine.step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchroniz") as seen:
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(seen) == 1


def test_reads_nothing_back_before_the_step_is_decided(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rule on a CPU, where reading costs nothing: every way to read a tensor is counted."""
    engine = Engine(llada)
    for i, scheduler in enumerate([*BUILT_IN, "counting"]):
        engine.submit(make(i, scheduler, temperature=i % 2))
    engine.step()
    reads: list[str] = []

    def counted(name: str, original: Any) -> Any:
        def read(self: Tensor, *args: Any) -> Any:
            reads.append(name)
            return original(self, *args)

        return read

    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    engine.step()
    assert reads[0] == "cpu"  # everything before it ran without the host knowing a value
    assert reads.count("cpu") == 1


# --- invariant 8: confidence is the softmax of the raw logits


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_confidence_is_the_softmax_of_the_raw_logits(model: Model, temperature: float) -> None:
    request = make(temperature=temperature, top_k=3)
    step = next(Engine(model).run([request]))
    canvas = torch.tensor([*request.prompt, *[model.mask_id] * request.max_tokens])[None]
    p = model.network.logits(canvas).double().softmax(-1)[0]
    for reveal in step.revealed:
        expected = p[len(request.prompt) + reveal.position, reveal.token_id].item()
        assert reveal.probability == pytest.approx(expected, abs=ROUNDING)


# --- the published loop


@pytest.mark.parametrize(
    ("max_tokens", "block_length", "steps"), [(24, 8, 24), (24, 8, 12), (24, 24, 24), (24, 24, 7), (20, 5, 8)]
)
def test_topk_equals_the_published_loop(tmp_path: Path, max_tokens: int, block_length: int, steps: int) -> None:
    model = replace(load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32"), stop_ids=frozenset())
    with torch.no_grad():  # the published loop forbids nothing, so the model must not want what the engine forbids
        model.network.head.weight[[model.mask_id, *range(model.vocab_size, model.network.head.out_features)]] = 0
    request = make(options={"steps": steps}, max_tokens=max_tokens, block_length=block_length)
    result = alone(model, request)
    expected = llada_generate(model.network.logits, request.prompt, steps, max_tokens, block_length, model.mask_id)
    assert list(result.token_ids) == expected
    assert result.forward_passes == steps


# --- remasking


def test_remasking_is_refused_unless_declared(llada: Model) -> None:
    assert all(not step.remasked for step in Engine(llada).run([make(scheduler="undeclared")]))


def test_text_of_a_remasking_scheduler_settles_by_block(llada: Model) -> None:
    steps = list(Engine(llada).run([make(scheduler="second-thoughts", max_tokens=8)]))
    assert any(step.remasked for step in steps)
    for step in steps[:-1]:
        assert len(step.text) == 0 or step.block >= 1 or step.index >= 2


def test_a_remasked_token_counts_when_it_is_revealed_for_good(llada: Model) -> None:
    steps = list(Engine(llada).run([make(scheduler="second-thoughts", max_tokens=8)]))
    standing: list[Reveal] = []
    for step in steps:
        standing = [reveal for reveal in standing if reveal.position not in step.remasked] + list(step.revealed)
        assert all(reveal.step == step.index for reveal in step.revealed)
    assert last(steps).reveals == tuple(standing)
    assert sorted(reveal.position for reveal in standing) == list(range(8))


# --- requests come and go


def test_every_request_gets_one_answer(model: Model) -> None:
    requests = [replace(r, id=f"{name}-{r.id}") for name in BUILT_IN for r in varied(name, 4)]
    ends = [s.request_id for s in Engine(model, max_rows=7).run(requests) if s.result]
    assert sorted(ends) == sorted(r.id for r in requests)


def test_cancelling_frees_the_row_and_leaves_the_others(llada: Model) -> None:
    engine = Engine(llada, max_rows=2)
    requests = [make(i) for i in range(3)]
    for request in requests:
        engine.submit(request)
    engine.step()
    step = engine.cancel("r0")
    assert step is not None
    assert step.result is not None
    assert step.result.finish_reason == "cancelled"
    assert (engine.running, engine.waiting) == (1, 1)
    found = {s.request_id: s.result for s in engine.run([]) if s.result}
    assert {id: outcome(result) for id, result in found.items()} == {
        r.id: outcome(alone(llada, r)) for r in requests[1:]
    }
    assert engine.cancel("r0") is None


def test_settled_text_only_grows_and_ends_as_the_result(model: Model) -> None:
    for scheduler in BUILT_IN:
        text = ""
        for step in Engine(model).run([make(scheduler=scheduler, max_tokens=24, block_length=8, temperature=1.0)]):
            assert step.text.startswith(text)
            text = step.text
        assert step.result is not None
        assert step.result.text == text


def test_a_stop_text_ends_the_request_and_is_not_part_of_it(llada: Model) -> None:
    plain = alone(llada, make(max_tokens=24, block_length=4))
    stop = plain.text[6:9]
    steps = list(Engine(llada).run([make(max_tokens=24, block_length=4, stop=("absent", stop))]))
    result = last(steps)
    assert result.finish_reason == "stop"
    assert result.text == plain.text[: plain.text.index(stop)]
    assert result.forward_passes < plain.forward_passes
    assert all(stop not in step.text for step in steps)
    assert all(plain.text.startswith(step.text) for step in steps)


def test_the_beginning_of_a_stop_text_is_held_back_until_it_is_none(llada: Model) -> None:
    request = make(stop=("bc",))
    canvas = Canvas(request, llada.tokenizer, llada.stop_ids, llada.mask_id, None, Needs(), submitted=0.0)
    texts = []
    for position, letter in enumerate("abxbc"):
        (token,) = llada.tokenizer.encode(letter)
        step = canvas.advance((Reveal(position, token, 1.0, canvas.step),), ())
        texts.append(step.text)
    assert texts == ["a", "a", "abx", "abx", "abx"]
    assert step.result is not None
    assert (step.result.text, step.result.finish_reason) == ("abx", "stop")
