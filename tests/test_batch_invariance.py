"""With `batch_invariant` a result is the same bit for bit, whatever shares the batch: tokens and confidences."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.synthetic import synthetic_dream, synthetic_llada
from tests.synthetic_block import synthetic_fast_dllm, synthetic_llada2, synthetic_sdar, synthetic_sdar_moe
from unmask.engine import Engine, Request, Result
from unmask.engine.caching import parse_cache
from unmask.engine.scoring import Question
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

FAMILIES: dict[str, Callable[..., Path]] = {
    "llada": synthetic_llada,
    "dream": synthetic_dream,
    "sdar": synthetic_sdar,
    "sdar_moe": synthetic_sdar_moe,
    "fast_dllm": synthetic_fast_dllm,
    "llada2": synthetic_llada2,
}
CACHES = ("none", "prefix", "dual", "dual:refresh=2")
BLOCK_CACHES = ("none", "block")
SCHEDULERS = scheduler_names()


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model("llada-nano", device="cpu", dtype="bfloat16")


def crowd(model: Model, count: int) -> Iterator[Request]:
    """Requests that differ in everything, prompt and canvas lengths first, as these are the shapes of products."""
    block = model.network.architecture.block_size
    caches = CACHES if block is None else BLOCK_CACHES
    for i in range(count):
        scheduler = SCHEDULERS[i % len(SCHEDULERS)]
        if block is not None and parse_scheduler(scheduler).scheduler().needs.window == "generation":
            scheduler = "topk"
        yield Request(
            id=f"r{i}",
            prompt=tuple(3 + (i * 7 + j) % 60 for j in range(3 + i * 5 % 23)),
            max_tokens=5 + i * 3 % 19,
            block_length=(4, 8, 5)[i % 3] if block is None else block,
            scheduler=parse_scheduler(scheduler),
            temperature=(0.7, 0.0, 1.3)[i % 3],
            top_p=(1.0, 0.8)[i % 2],
            seed=i,
            cache=parse_cache("none" if scheduler == "policy" else caches[i // 2 % len(caches)]),
            top_logprobs=(0, 3)[i // 3 % 2],
            min_tokens=i % 5,
            ignore_eos=i % 4 != 1,
        )


def exact(result: Result) -> Any:
    """All that a result says but for its times; floats are compared bit for bit."""
    return result.token_ids, result.text, result.finish_reason, result.forward_passes, result.reveals


def differing(model: Model, requests: list[Request], rows: int, batch_invariant: bool, **options: Any) -> list[str]:
    """The requests whose results in a crowd are not those that they have alone."""
    how = {"memory_fraction": 0.05, "batch_invariant": batch_invariant, **options}
    together = Engine(model, rows, **how).results(requests)
    alone = {request.id: Engine(model, 1, **how).results([request])[request.id] for request in requests}
    return [id for id, result in alone.items() if exact(result) != exact(together[id])]


@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, "bfloat16") for family in FAMILIES), ("llada", "float32"), ("sdar_moe", "float32")]
)
def test_a_crowd_of_16_equals_alone(family: str, dtype: str, tmp_path: Path) -> None:
    """Every scheduler; in float32 a plain family and one of experts, which have products of their own there."""
    model = load_model(str(FAMILIES[family](tmp_path)), device="cpu", dtype=dtype)
    assert differing(model, list(crowd(model, len(SCHEDULERS))), 16, batch_invariant=True) == []


def test_a_crowd_that_comes_again_has_the_same_answers(nano: Model) -> None:
    requests = list(crowd(nano, 32))
    engine = Engine(nano, 32, 0.1, batch_invariant=True)
    first, second = ({id: exact(r) for id, r in engine.results(requests).items()} for _ in range(2))
    alone = {r.id: exact(Engine(nano, 1, 0.05, batch_invariant=True).results([r])[r.id]) for r in requests}
    assert first == second == alone


def test_without_the_mode_confidences_are_only_close(nano: Model) -> None:
    """What the mode is for; on a processor whose products do not depend on their shapes this test has to go."""
    assert differing(nano, list(crowd(nano, 32)), 32, batch_invariant=False)


@pytest.mark.parametrize("static", [False, True])
def test_padded_steps_equal_alone_too(nano: Model, static: bool) -> None:
    assert differing(nano, list(crowd(nano, 16)), 16, batch_invariant=True, static=static) == []


def test_leaving_and_joining_changes_nothing(nano: Model) -> None:
    requests = list(crowd(nano, 24))
    alone = {r.id: exact(Engine(nano, 1, 0.05, batch_invariant=True).results([r])[r.id]) for r in requests[12:]}
    engine = Engine(nano, 8, 0.05, batch_invariant=True)
    for request in requests:
        engine.submit(request)
    found: dict[str, Any] = {}
    for count in range(10_000):
        steps = engine.step()
        if count % 5 == 0 and count < 60:
            engine.cancel(requests[count // 5].id)
        found |= {step.request_id: exact(step.result) for step in steps if step.result is not None}
        if not (engine.running or engine.waiting):
            break
    assert alone == {id: found[id] for id in alone}


def test_scores_equal_alone(nano: Model) -> None:
    questions = [Question(tuple(range(3, 9 + 5 * i)), (1, 4), (7, 8)) for i in range(12)]
    engine = Engine(nano, 4, 0.05, batch_invariant=True)
    assert engine.score(questions, top=3) == [engine.score([question], top=3)[0] for question in questions]


def test_one_pass_is_one_row(nano: Model) -> None:
    engine = Engine(nano, 8, 0.05, batch_invariant=True)
    for request in crowd(nano, 5):
        engine.submit(request)
    first = [engine.step() for _ in range(5)]
    assert [len(steps) for steps in first] == [1] * 5
    assert [steps[0].request_id for steps in first] == [f"r{i}" for i in range(5)]


@pytest.mark.gpu
def test_a_crowd_equals_alone_on_cuda() -> None:
    model = load_model("llada-nano", device="cuda", compiled=True)
    assert differing(model, list(crowd(model, 64)), 64, batch_invariant=True) == []
