"""Gaps between pinned tokens, over every scheduler and model family: what is given stays, and the rest follows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.outcomes import in_turn, outcome
from tests.rogues import ROGUES, registered
from tests.synthetic import synthetic_dream, synthetic_llada
from tests.synthetic_block import synthetic_sdar
from unmask.engine import Engine, Request, Result, Step
from unmask.engine.caching import Cache
from unmask.engine.errors import RequestError
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

FAMILIES: dict[str, Any] = {
    "llada": synthetic_llada,
    "dream": synthetic_dream,
    "sdar": lambda folder: synthetic_sdar(folder, block_size=4),
}
WHOLE_REGION = "full-diffusion"  # a policy that sees all of the region, which block-causal models cannot show
SEE_THE_BLOCK = [name for name in scheduler_names() if name != "policy"]
GAPS: list[tuple[int | None, ...]] = [  # in blocks of 4: gaps within and across blocks, full ones, pins at both ends
    (None, None, 7, 8, *[9] * 4, None, 10, None, None, None),
    (*[5] * 9, None, None, None, 6),
    (None, *[6] * 11, None),
    (7, None) * 8,
]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("checkpoint") / "tiny")
    return load_model(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def make(i: int = 0, scheduler: str = "topk", **fields: Any) -> Request:
    """A request with gaps that differs from the others with other i, now and then without a prompt or a suffix."""
    template = fields.pop("template", GAPS[i % len(GAPS)])
    plain = Request(
        id=f"r{i}",
        prompt=tuple(range(3, 3 + i * 2 % 7)),
        max_tokens=len(template),
        block_length=4,
        scheduler=parse_scheduler(scheduler, {"policy": WHOLE_REGION} if scheduler == "policy" else {}),
        temperature=(0.0, 0.9)[i % 2],
        seed=i,
        template=template,
        suffix=tuple(range(20, 20 + i % 3)),
    )
    return replace(plain, **fields)


def alone(model: Model, request: Request) -> Result:
    return Engine(model).results([request])[request.id]


def filled(request: Request, steps: list[Step]) -> list[int | None]:
    """The region as the steps left it. They change masks only, and take back only what they revealed."""
    region = list(request.template)
    for step in steps:
        for reveal in step.revealed:
            assert region[reveal.position] is None
            region[reveal.position] = reveal.token_id
        for reveal in step.written:
            assert request.template[reveal.position] is None
            assert region[reveal.position] not in (None, reveal.token_id)
            region[reveal.position] = reveal.token_id
        for position in step.remasked:
            assert request.template[position] is None
            region[position] = None
    return region


@pytest.mark.parametrize(("model", "scheduler"), in_turn([*FAMILIES], [*SEE_THE_BLOCK, *ROGUES]), indirect=["model"])
def test_pinned_tokens_stay_and_gaps_are_filled(model: Model, scheduler: str) -> None:
    for i in range(4):
        check_filling(model, make(i, scheduler, max_forward_passes=40))


def test_a_scheduler_that_sees_the_whole_region_fills_gaps(llada: Model) -> None:
    for i in range(4):
        check_filling(llada, make(i, "policy"))


def check_filling(model: Model, request: Request) -> None:
    steps = list(Engine(replace(model, stop_ids=frozenset())).run([request]))
    region, result = filled(request, steps), steps[-1].result
    assert result is not None
    assert None not in region
    assert list(result.token_ids) == region
    assert result.generated == request.template.count(None)
    assert result.prompt_tokens + result.generated == request.length


@pytest.mark.parametrize(
    ("model", "scheduler"), in_turn([*FAMILIES], [*SEE_THE_BLOCK, "second-thoughts"]), indirect=["model"]
)
def test_batched_equals_alone(model: Model, scheduler: str) -> None:
    plain = [make(i, scheduler, template=(), max_tokens=9, suffix=(), prompt=(3, 4)) for i in (8, 9)]
    requests = [*plain, *(make(i, scheduler) for i in range(8))]
    together = Engine(model, max_rows=5).results(requests)
    assert [outcome(together[r.id]) for r in requests] == [outcome(alone(model, r)) for r in requests]


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_caches_that_are_exact_change_nothing(model: Model, static: bool) -> None:
    exact = Cache("block") if model.network.architecture.block_size else Cache("dual", refresh=1)
    for cache in (exact, *([Cache("prefix", refresh=1)] if exact.name == "dual" else [])):
        requests = [make(i) for i in range(8)]
        cached = Engine(model, static=static).results(replace(r, cache=cache) for r in requests)
        assert [outcome(cached[r.id]) for r in requests] == [outcome(alone(model, r)) for r in requests]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_stale_caches_leave_pins_alone(model: Model, cache: Any) -> None:
    if model.network.architecture.block_size:
        cache = "block"
    for i in range(8):
        request = make(i, cache=Cache(cache), block_length=4 if model.network.architecture.block_size else 16)
        check_filling(model, request)


@pytest.mark.parametrize("i", range(4))
def test_topk_fills_gaps_as_a_plain_loop_does(model: Model, i: int) -> None:
    model = replace(model, stop_ids=frozenset())
    request = make(i, temperature=0.0)
    result = alone(model, request)
    assert list(result.token_ids) == plain_loop(model, request)
    assert result.forward_passes == request.template.count(None)  # none for what is pinned


@torch.no_grad()
def plain_loop(model: Model, request: Request) -> list[int]:
    """The surest mask of the leftmost block that has one, written until there is none; the region."""
    start, grid = len(request.prompt), model.network.architecture.block_size
    known = [*request.prompt, *request.template, *request.suffix]
    x = torch.tensor([model.mask_id if token is None else token for token in known])[None]
    masked = torch.tensor([token is None for token in known])
    origin = 0 if grid else start  # where blocks are counted from
    while masked.any():
        block = (int(masked.nonzero()[0]) - origin) // request.block_length
        stop = origin + (block + 1) * request.block_length
        logits = model.network.logits(x[:, :stop] if grid else x)[0].softmax(-1)
        logits[:, [model.mask_id, *range(model.vocab_size, logits.shape[1])]] = -1
        probability, proposal = logits[:stop].max(-1)
        best = int(probability.masked_fill(~masked[: len(probability)], -2).argmax())
        x[0, best], masked[best] = proposal[best], False
    return x[0, start : start + request.max_tokens].tolist()


def wanting(model: Model, monkeypatch: pytest.MonkeyPatch, token: int) -> Model:
    """The model, which now wants nothing more than one token, everywhere."""
    head = model.network.head.forward

    def biased(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        logits[..., token] += 100.0
        return logits

    monkeypatch.setattr(model.network.head, "forward", biased)
    return model


def test_an_end_of_text_ends_its_gap_and_the_last_one_the_request(
    llada: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = min(llada.stop_ids)
    request = make(template=(7, None, None, 8, None, None, None, None), block_length=2)
    result = alone(wanting(llada, monkeypatch, stop), request)
    assert (result.token_ids, result.positions, result.generated) == ((7, 8), (0, 3), 0)
    assert (result.finish_reason, result.forward_passes) == ("stop", 3)


def test_a_pinned_end_of_text_ends_nothing(llada: Model) -> None:
    stop = min(llada.stop_ids)
    request = make(template=(None, stop, stop, None), prompt=(3,), suffix=(stop,))
    result = alone(replace(llada, stop_ids=frozenset({stop})), request)
    assert result.token_ids[1:3] == (stop, stop)


def test_what_follows_decides_what_is_filled_in(llada: Model) -> None:
    first, second = (alone(llada, make(prompt=(3, 4), suffix=suffix, temperature=0.0)) for suffix in ((40,) * 6, (50,)))
    assert first.token_ids != second.token_ids


def test_remasking_for_ever_ends_at_four_passes_a_mask(llada: Model) -> None:
    request = make(1, "flip-flop")
    assert alone(llada, request).forward_passes <= 4 * request.template.count(None)


@pytest.mark.parametrize("template", [(1, 2, 3), (1, None)])
def test_a_canvas_that_does_not_fit_is_refused(llada: Model, template: tuple[int | None, ...]) -> None:
    with pytest.raises(RequestError, match="give 3 tokens, and at least one mask") as caught:
        Engine(llada).submit(make(template=template, max_tokens=3))
    assert caught.value.param == "canvas"
