"""Log-probabilities under masks, and those told with reveals, against the network asked directly."""

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.synthetic import synthetic_llada
from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, EngineError, EngineService, Request
from unmask.engine.scoring import (
    PASS_TOKENS,
    Question,
    complementary_pairs,
    coupled,
    left_to_right,
    likelihood_bound,
    likelihood_masks,
    passes,
    under_masks,
)
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

ROUNDING = 1e-4
PROMPT, COMPLETION = (3, 4, 5), (10, 11, 12, 13, 14, 15, 16)


CHANGES: dict[str, dict[str, Any]] = {"llada": {}, "dream": {}, "sdar": {}, "a2d_qwen3": {"block_size": 4}}


@pytest.fixture(scope="module", params=CHANGES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("checkpoint"), **CHANGES[request.param])
    return load_model(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture
def service(llada: Model) -> Iterator[EngineService]:
    service = EngineService(Engine(llada), max_waiting=8)
    service.start()
    yield service
    service.stop()


@torch.no_grad()
def directly(model: Model, question: Question) -> torch.Tensor:
    """log p (W, V) of the columns that a question asks for."""
    logits = model.network.logits(torch.tensor([question.seen]), prompt=question.prompt)
    return logits[0, list(question.columns)].double().log_softmax(-1)


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_scores_are_the_networks(model: Model, static: bool) -> None:
    masks = [[0, 3, 6], [1], list(range(7))]
    questions = [under_masks(PROMPT, COMPLETION, masked, model.mask_id) for masked in masks]
    questions += left_to_right(PROMPT + COMPLETION, model.mask_id)
    scored = Engine(model, static=static).score(questions, top=3)
    for question, answer in zip(questions, scored, strict=True):
        log_p = directly(model, question)
        expected = log_p.gather(-1, torch.tensor(question.tokens)[:, None]).squeeze(-1).tolist()
        assert answer.log_probabilities == pytest.approx(expected, abs=ROUNDING)
        log_p[:, [model.mask_id, *range(model.vocab_size, log_p.shape[1])]] = -torch.inf
        for told, row in zip(answer.top, log_p, strict=True):
            values, ids = row.topk(3)
            assert [id for id, _ in told] == ids.tolist()
            assert [value for _, value in told] == pytest.approx(values.tolist(), abs=ROUNDING)


def test_what_is_masked_is_not_seen_and_the_rest_is(llada: Model) -> None:
    question = under_masks((1, 2), (7, 8, 9), [0, 2], llada.mask_id)
    assert question == Question((1, 2, llada.mask_id, 8, llada.mask_id), (2, 4), (7, 9), prompt=2)
    assert left_to_right((1, 2, 3), llada.mask_id) == [
        Question((1, llada.mask_id, llada.mask_id), (1,), (2,), prompt=1),
        Question((1, 2, llada.mask_id), (2,), (3,), prompt=2),
    ]


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_two_masks_of_a_pair_complement_each_other(length: int) -> None:
    masks = complementary_pairs(length, 40, seed=1)
    for first, second in zip(masks[::2], masks[1::2], strict=True):
        assert first
        assert sorted(first + second) == list(range(length))
    assert {len(first) for first in masks[::2]} == set(range(1, length + 1))
    assert masks == complementary_pairs(length, 40, seed=1)
    assert length < 9 or masks != complementary_pairs(length, 40, seed=2)


def test_masks_of_the_bound_have_every_size() -> None:
    masks = likelihood_masks(8, 16, seed=3)
    assert sorted(map(len, masks)) == sorted([*range(1, 9)] * 2)
    assert all(len(set(mask)) == len(mask) and mask == sorted(mask) for mask in masks)
    assert masks == likelihood_masks(8, 16, seed=3) != likelihood_masks(8, 16, seed=4)


def test_the_bound_of_independent_tokens_is_their_log_probability() -> None:
    """Where each token has the same log p under any mask, every sample gives the sum over all tokens."""
    masks = likelihood_masks(8, 5, seed=0)
    assert likelihood_bound(8, [-0.5 * len(mask) for mask in masks], masks) == pytest.approx((-4.0, 0.0), abs=1e-9)
    assert likelihood_bound(4, [-1.0], [[0, 1]]) == (-2.0, None)
    assert likelihood_bound(2, [-1.0, -4.0], [[0], [0, 1]]) == pytest.approx((-3.0, 1.0))


def test_coupled_estimates_are_means_over_the_masks_of_a_token() -> None:
    masks = [[0, 2], [1], [0, 1, 2]]
    assert coupled(3, masks, [[-1.0, -2.0], [-3.0], [-2.0, -4.0, -6.0]]) == [-1.5, -3.5, -4.0]


def test_lots_are_no_larger_than_a_pass() -> None:
    questions = [Question((1,) * length, (0,), (1,)) for length in (5000, 3000, 300, 9000, 1)]
    lots = passes(questions)
    assert [len(lot) for lot in lots] == [2, 1, 1, 1]
    assert [question for lot in lots for question in lot] == questions
    assert all(sum(len(q.seen) for q in lot) <= PASS_TOKENS or len(lot) == 1 for lot in lots)


def test_scoring_leaves_what_runs_as_it_is(llada: Model) -> None:
    request = Request("r", PROMPT, 12, 4, parse_scheduler("topk"))
    undisturbed = Engine(llada).results([request])["r"]
    engine = Engine(llada)
    engine.submit(request)
    while engine.running or engine.waiting:
        engine.score([under_masks(PROMPT, COMPLETION, [1, 2], llada.mask_id)])
        steps = engine.step()
    assert steps[-1].result is not None
    assert steps[-1].result.token_ids == undisturbed.token_ids


def test_the_service_calls_on_the_engines_thread_and_tells_what_failed(service: EngineService) -> None:
    names = [service.call(lambda engine: threading.current_thread().name).result(10) for _ in range(2)]
    assert names == ["engine", "engine"]
    with pytest.raises(EngineError, match="modulo by zero"):
        service.call(lambda engine: 1 // 0).result(10)
    assert service.call(lambda engine: 5).result(10) == 5
    service.stop()
    with pytest.raises(EngineError, match="stopping"):
        service.call(lambda engine: 5)


@pytest.mark.parametrize("scheduler", [name for name in scheduler_names() if name != "policy"])
def test_reveals_tell_the_most_probable_tokens(llada: Model, scheduler: str) -> None:
    """Of the rows that ask; and who asks beside them changes nothing."""
    plain = Request("plain", PROMPT, 12, 4, parse_scheduler(scheduler), seed=1)
    asking = [replace(plain, id=str(k), top_logprobs=k, temperature=k / 3) for k in (1, 3)]
    for static in (False, True):
        steps = list(Engine(llada, static=static).run([plain, *asking]))
        told = {id: [r for s in steps if s.request_id == id for r in s.revealed] for id in ("plain", "1", "3")}
        assert all(reveal.top == () for reveal in told["plain"])
        for k in (1, 3):
            assert all(len(reveal.top) == k for reveal in told[str(k)])
            assert all(list(reveal.top) == sorted(reveal.top, key=lambda one: -one[1]) for reveal in told[str(k)])
        results = {s.request_id: s.result for s in steps if s.result}
        assert results["plain"].token_ids == Engine(llada).results([plain])["plain"].token_ids


def test_a_captured_step_is_not_replayed_for_rows_that_ask_for_more(llada: Model) -> None:
    engine, plain = Engine(llada, static=True), Request("r", PROMPT, 12, 4, parse_scheduler("topk"))
    engine.results([plain])
    for k in (2, 1):
        steps = list(engine.run([replace(plain, top_logprobs=k)]))
        assert [len(reveal.top) for step in steps for reveal in step.revealed] == [k] * 12


def test_greedy_reveals_are_the_most_probable(llada: Model) -> None:
    request = Request("r", PROMPT, 12, 4, parse_scheduler("topk"), top_logprobs=2)
    step = next(Engine(llada).run([request]))
    (reveal,) = step.revealed
    canvas = torch.tensor([[*PROMPT, *[llada.mask_id] * 12]])
    p = llada.network.logits(canvas)[0, 3 + reveal.position].softmax(-1)
    p[[llada.mask_id, *range(llada.vocab_size, len(p))]] = 0
    values, ids = p.topk(2)
    assert [id for id, _ in reveal.top] == ids.tolist()
    assert [q for _, q in reveal.top] == pytest.approx(values.tolist(), abs=ROUNDING)
    assert reveal.top[0][0] == reveal.token_id
    assert math.isclose(reveal.probability, values[0].item(), abs_tol=ROUNDING)


def test_ignoring_ends_of_text_fills_the_region(llada: Model) -> None:
    some = tuple(range(llada.vocab_size))  # whatever comes is an end of text
    ends = replace(llada, stop_ids=frozenset(some))
    request = Request("r", PROMPT, 12, 4, parse_scheduler("topk"))
    assert Engine(ends).results([request])["r"].finish_reason == "stop"
    result = Engine(ends).results([replace(request, ignore_eos=True)])["r"]
    assert (result.finish_reason, len(result.token_ids)) == ("length", 12)
