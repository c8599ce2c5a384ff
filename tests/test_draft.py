"""Drafts: what the model would write itself is kept, whatever is refused leaves no trace, and a right one is quick."""

from collections.abc import Sequence, Set
from dataclasses import replace
from itertools import takewhile
from random import Random
from typing import Any

import pytest
import torch

from tests.outcomes import outcome, outcomes
from tests.synthetic_relatives import FAMILIES, KINDS
from unmask import LLM
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.draft import BELIEF, Draft
from unmask.engine.errors import RequestError
from unmask.engine.input_state import parse_input_state
from unmask.engine.plan import plan_step
from unmask.engine.request import Result
from unmask.engine.scoring import Question, pack_questions
from unmask.engine.structure import choice
from unmask.evals.tasks.word_problems import draw
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

LENGTH = 32
ROUNDING = 1e-4  # of probabilities in passes of other shapes
Proposed = tuple[int, float]  # a token and its probability
PROBLEMS = [draw(Random(seed)) for seed in range(6)]
CACHES = ("none", "prefix", "dual:refresh=3")
COUNTS = {"saber"}  # does something else in the very first pass
DRAWS = {"random", "remdm"}  # at random, by the number of the pass
SCHEDULERS = [name for name in scheduler_names() if name != "policy"]


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("llada-nano", device="cpu", dtype="float32")


def make(model: Model, i: int = 0, **fields: Any) -> Request:
    plain = Request(
        id=f"r{i}",
        prompt=tuple(model.tokenizer.chat([{"role": "user", "content": PROBLEMS[i % len(PROBLEMS)].prompt}])),
        max_tokens=LENGTH,
        block_length=LENGTH // 2,
        scheduler=parse_scheduler("topk", {"n": 2}),
        seed=i,
    )
    return replace(plain, **fields)


def run(model: Model, request: Request) -> Result:
    return Engine(model).results([request])[request.id]


def drafts_of(model: Model, i: int) -> dict[str, tuple[int, ...]]:
    """Drafts of all kinds for a problem, by the model's own answer to it."""
    own, rng = run(model, make(model, i)).token_ids, Random(i)
    at = rng.randrange(len(own))
    other = run(model, make(model, i + 1)).token_ids
    return {
        "right": own,
        "half": own[: len(own) // 2],
        "wrong": (*own[:at], (own[at] + 1) % 400, *own[at + 1 :]),
        "shifted": (own[0], *own),
        "other": other,
        "long": own * 9,
        "one": own[:1],
        "mask": (model.mask_id,) * 20,
        "end": (*own, *sorted(model.stop_ids)[:1] * 9),
        "noise": tuple(rng.randrange(model.vocab_size) for _ in range(40)),
    }


@torch.inference_mode()
def proposals(model: Model, prompt: Sequence[int], region: Sequence[int | None]) -> list[Proposed]:
    """The most probable token at each position of a region, and its probability."""
    seen = tuple(model.mask_id if token is None else token for token in (*prompt, *region))
    question = Question(seen, tuple(range(len(prompt), len(seen))), seen[len(prompt) :])
    network = pack_questions([question], model.network.architecture, "exact").batch()
    logits = model.network.head(model.network(network, None)).float()[: len(region)]
    total = logits.logsumexp(-1)
    logits[:, [model.mask_id, *range(model.vocab_size, logits.shape[1])]] = -torch.inf
    best, ids = logits.max(-1)
    return list(zip(ids.tolist(), (best - total).exp().tolist(), strict=True))


def run_of(asked: Sequence[int], found: Sequence[Proposed], draft: Sequence[int], ends: Set[int]) -> list[int]:
    """The asked positions before the first that is refused."""

    def agreed(position: int) -> bool:
        token, p = found[position]
        same = token == draft[position] if position < len(draft) else position == len(draft) and token in ends
        return same and p >= BELIEF

    return list(takewhile(agreed, asked))


def judged(model: Model, request: Request, region: list[int | None], block: range) -> int:
    """Write what the passes 1 and 2 keep of a block into the region; how many passes there were."""
    draft, halves = request.draft, list(region)
    inside = [position for position in block if position < len(draft)]
    if len(inside) < 2:
        return 0
    for position in inside[1::2]:
        halves[position] = draft[position]
    passed = run_of(inside[::2], proposals(model, request.prompt, halves), draft, set())
    if not passed:
        return 1
    both = list(region)
    for position in passed:
        both[position] = draft[position]
    found = proposals(model, request.prompt, both)
    agreed = run_of([p for p in block if p not in passed], found, draft, model.stop_ids)
    for position in takewhile(lambda p: p in agreed or p in passed, block):
        region[position] = found[position][0] if position in agreed else draft[position]
    return 2


def told(result: Result) -> Any:
    """What was revealed in which order, and how sure the model was."""
    return [
        (reveal.position, reveal.token_id, pytest.approx(reveal.probability, rel=ROUNDING)) for reveal in result.reveals
    ]


def by_the_rule(model: Model, request: Request) -> tuple[list[int | None], int]:
    """The answer and the number of passes, with the scheduler `topk` of n = 1, step by step as the rule says."""
    region: list[int | None] = [None] * request.max_tokens
    passes = 0
    for start in range(0, request.max_tokens, request.block_length):
        block = range(start, min(start + request.block_length, request.max_tokens))
        passes += judged(model, request, region, block)
        while True:
            ends = [position for position in range(block.stop) if region[position] in model.stop_ids]
            if ends and None not in region[: ends[0]]:
                return region[: ends[0]], passes
            masks = [position for position in block if region[position] is None]
            if not masks:
                break
            found, passes = proposals(model, request.prompt, region), passes + 1
            kept = run_of(masks, found, request.draft, model.stop_ids)
            for position in {*kept, max(masks, key=lambda p: found[p][1])}:
                region[position] = found[position][0]
    return region, passes


def test_follows_the_rule(model: Model) -> None:
    for name, draft in drafts_of(model, 1).items():
        for block in (LENGTH, 8) if name != "one" else (LENGTH, 1):
            request = make(model, 1, draft=draft, block_length=block, scheduler=parse_scheduler("topk"))
            result = run(model, request)
            assert (list(result.token_ids), result.forward_passes) == by_the_rule(model, request), (name, block)


def test_a_right_draft_needs_two_passes(model: Model) -> None:
    fields: dict[str, Any] = {"max_tokens": 64, "block_length": 64, "scheduler": parse_scheduler("topk")}
    plain = [run(model, make(model, i, **fields)) for i in range(len(PROBLEMS))]
    assert [result.forward_passes for result in plain] == [64] * len(plain)
    quick = [run(model, make(model, i, draft=result.token_ids, **fields)) for i, result in enumerate(plain)]
    assert [result.text for result in quick] == [result.text for result in plain]
    assert sum(result.forward_passes for result in quick) / len(quick) < 8
    assert min(result.forward_passes for result in quick) == 2
    for result in quick:
        assert (result.accepted, result.rejected) == (len(result.token_ids), 0)


WAYS = [*zip((*CACHES, "none"), ("mask", "residual", "soft", "iter-smooth"), strict=True)]


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name not in DRAWS])
def test_what_is_refused_leaves_no_trace(model: Model, scheduler: str) -> None:
    """With every second cache and input state, of which each scheduler of two has the others."""
    for cache, state in WAYS[SCHEDULERS.index(scheduler) % 2 :: 2]:
        if cache != "none" and parse_scheduler(scheduler).needs().window == "generation":
            continue
        plain = make(
            model,
            scheduler=parse_scheduler(scheduler),
            cache=parse_cache(cache),
            input_state=parse_input_state(state),
        )
        first, wrong = run(model, plain), (400,) * 40  # which the model would never write
        second = run(model, replace(plain, draft=wrong))
        assert (first.token_ids, first.finish_reason) == (second.token_ids, second.finish_reason)
        assert scheduler in COUNTS or told(first) == told(second)
        assert 1 <= second.forward_passes - first.forward_passes <= plain.max_tokens // plain.block_length
        assert (second.accepted, second.rejected) == (0, 40)


def test_what_passed_and_is_refused_leaves_no_trace(model: Model) -> None:
    """The first half of the second pass: a draft whose second token is wrong, and nothing else."""
    for cache in CACHES:
        plain = make(model, cache=parse_cache(cache), block_length=8, scheduler=parse_scheduler("topk"))
        own = run(model, plain)
        wrong = run(model, replace(plain, draft=(own.token_ids[0], 400, *own.token_ids[2:8])))
        assert own.token_ids == wrong.token_ids


def test_alone_equals_in_a_crowd(model: Model) -> None:
    requests, by_problem = [], [[(), *drafts_of(model, i).values()] for i in range(4)]
    for i in range(len(SCHEDULERS)):
        drafts = by_problem[i % 4]
        name = SCHEDULERS[i % len(SCHEDULERS)]
        sees_all = parse_scheduler(name).needs().window == "generation"
        requests.append(
            make(
                model,
                i,
                prompt=make(model, i % 4).prompt,
                draft=drafts[i % len(drafts)],
                scheduler=parse_scheduler(name),
                block_length=(LENGTH, 16, 8, 5)[i % 4],
                cache=parse_cache("none" if sees_all else CACHES[i // 2 % 3]),
                temperature=(0.0, 0.0, 0.7)[i % 3],
                input_state=parse_input_state(("mask", "residual", "mask", "soft")[i % 4]),
                min_tokens=(0, 0, 20)[i % 3],
            )
        )
    alone = [outcome(run(model, request)) for request in requests]
    assert outcomes(model, requests, batch_invariant=True) == alone


@pytest.mark.parametrize("family", KINDS)
def test_block_causal_models_with_and_without_their_cache(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    small = load_model(str(FAMILIES[family](tmp_path_factory.mktemp("model") / "tiny")), device="cpu", dtype="float32")
    size = small.network.architecture.block_size
    caches = ("none", "block") if size else ("none",)
    plain = Request("a", tuple(range(3, 9)), 12, size or 6, parse_scheduler("topk"), ignore_eos=True)
    own = run(small, plain)
    for draft in (own.token_ids, own.token_ids[:5], (5,) * 12, (*own.token_ids[:4], 5, 5, 5)):
        found = {outcome(run(small, replace(plain, draft=draft, cache=parse_cache(cache)))) for cache in caches}
        assert len(found) == 1
        tokens, _, _, passes = next(iter(found))
        assert tokens == own.token_ids
        assert passes >= own.forward_passes  # a small random model is sure of nothing, so it agrees with nothing


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_settled_text_only_grows_and_steps_add_up(model: Model, scheduler: str) -> None:
    for i, draft in [*enumerate(drafts_of(model, 1).values())][SCHEDULERS.index(scheduler) % 3 :: 3]:
        request = make(model, 1, draft=draft, scheduler=parse_scheduler(scheduler), block_length=(16, 7)[i % 2], seed=i)
        text, canvas, result = "", dict[int, int](), None
        for step in Engine(model).run([request]):
            assert step.text.startswith(text)
            text, result = step.text, step.result
            for reveal in (*step.revealed, *step.written):
                assert reveal.step == step.index
                canvas[reveal.position] = reveal.token_id
            for position in step.remasked:
                del canvas[position]
        assert result is not None
        assert canvas == {reveal.position: reveal.token_id for reveal in result.reveals}
        assert result.accepted + result.rejected == len(draft)


def test_few_passes_are_enough(model: Model) -> None:
    for draft in drafts_of(model, 2).values():
        for most in range(1, 6):
            result = run(model, make(model, 2, draft=draft, max_forward_passes=most, ignore_eos=True))
            assert len(result.token_ids) == LENGTH
            assert result.forward_passes <= most


def test_an_answer_that_must_go_on_goes_on(model: Model) -> None:
    own = run(model, make(model)).token_ids
    for fields in ({"ignore_eos": True}, {"min_tokens": len(own) + 3}):
        result = run(model, make(model, draft=own, **fields))
        assert len(result.token_ids) > len(own) + 2
        assert result.token_ids[: len(own)] == own


def test_a_draft_is_cut_to_the_region(model: Model) -> None:
    own = run(model, make(model)).token_ids
    result = run(model, make(model, draft=own, max_tokens=5, block_length=5))
    assert (result.token_ids, result.finish_reason) == (own[:5], "length")
    assert (result.accepted, result.rejected) == (5, len(own) - 5)


def test_excludes_a_form_of_the_answer(model: Model) -> None:
    with pytest.raises(RequestError, match="'prediction' may not have that form"):
        Engine(model).prepare(make(model, draft=(5,), structure=choice(["1", "2"], "structured_outputs")))


def test_costs_nothing_where_there_is_none(model: Model) -> None:
    a, engine = model.network.architecture, Engine(model)
    canvases = [engine.prepare(make(model, i)) for i in range(2)]
    assert plan_step(canvases, a, 0, "exact").inputs.draft is None
    canvases.append(engine.prepare(make(model, 2, draft=(5, 6))))
    assert plan_step(canvases, a, 0, "exact").inputs.draft is not None


def test_python_takes_a_text_or_ids(model: Model) -> None:
    llm = LLM("llada-nano", device="cpu")
    (plain,) = llm.chat([{"role": "user", "content": PROBLEMS[0].prompt}], max_tokens=LENGTH)
    for prediction in (plain.text, plain.token_ids):
        (quick,) = llm.chat([{"role": "user", "content": PROBLEMS[0].prompt}], max_tokens=LENGTH, prediction=prediction)
        assert quick.text == plain.text
        assert quick.diffusion.accepted_prediction_tokens == len(plain.token_ids)
        assert quick.diffusion.forward_passes < plain.diffusion.forward_passes
    with pytest.raises(RequestError, match="prediction must be a text or token ids, not 3"):
        llm.generate("a", prediction=3)  # type: ignore[arg-type]


def test_an_empty_draft_is_none() -> None:
    draft = Draft(())
    draft.open([0, 1, 2])
    assert not draft.judged
    assert not draft.standing
