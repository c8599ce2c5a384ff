"""Gaps that find their own length: the published loop, and the laws that hold for any request."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.live import live
from tests.outcomes import outcomes
from tests.rogues import NoOptions
from tests.synthetic import DREAM_IDS, DREAM_TEMPLATE, synthetic_dream, write_qwen_tokenizer
from unmask.engine import Engine, Request
from unmask.engine.caching import Cache
from unmask.engine.errors import RequestError
from unmask.engine.growth import GAP, growing
from unmask.engine.request import Step
from unmask.models.loading import Model, load_model
from unmask.schedulers import (
    Decision,
    Needs,
    SchedulerSpec,
    State,
    View,
    parse_scheduler,
    scheduler_names,
)

EXPAND = len(DREAM_IDS) + DREAM_IDS["<|endoftext|>"]
STOP = DREAM_IDS["<|endoftext|>"]
MOST = 12


def synthetic_dreamon(folder: Path) -> Path:
    """A Dream checkpoint whose tokenizer has DreamOn's token."""
    synthetic_dream(folder)
    write_qwen_tokenizer(folder, {**DREAM_IDS, "<|expand|>": EXPAND}, DREAM_TEMPLATE, mask_token="<|mask|>")
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_dreamon(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture
def model(plain: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    """It likes to expand, and to end."""
    return liking(plain, monkeypatch, {EXPAND: 4.0, STOP: 3.0})


def liking(model: Model, monkeypatch: pytest.MonkeyPatch, tokens: dict[int, float]) -> Model:
    head = model.network.head.forward
    bias = torch.zeros(model.network.head.out_features)
    for token, liked in tokens.items():
        bias[token] = liked
    monkeypatch.setattr(model.network.head, "forward", lambda hidden: head(hidden) + bias)
    return model


def ask(model: Model, i: int = 0, scheduler: str = "entropy", **fields: Any) -> Request:
    asked = Request(f"r{i}", tuple(range(5, 8 + i)), MOST, MOST, parse_scheduler(scheduler), suffix=(20 + i, 21, STOP))
    return growing(replace(asked, **fields), model)


@torch.inference_mode()
def published(model: Model, request: Request) -> tuple[list[int], int]:
    """DreamOn's loop at temperature 0: the gap and the passes. After a pass, which reveals the surest token by entropy,
    an end of text takes the masks behind it along, and an expand token becomes two masks.

    Two things are ours: what may not be proposed counts in the entropy, and the mask is never proposed.
    """
    gap, passes, budget = [model.mask_id] * (request.max_tokens - request.spare), 0, request.max_tokens
    start = len(request.prompt)
    while model.mask_id in gap:
        canvas = torch.tensor([[*request.prompt, *gap, *request.suffix]])
        logits = model.network.logits(canvas)[0, start : start + len(gap)]
        p = logits.softmax(-1)
        entropy = -(p * p.log()).sum(-1)
        entropy[[token != model.mask_id for token in gap]] = torch.inf
        at = int(entropy.argmin())
        may = len(gap) < request.max_tokens and budget > 0
        logits[:, [model.mask_id, *range(model.vocab_size, logits.shape[1]), *([] if may else [EXPAND])]] = -torch.inf
        token = int(logits[at].argmax())
        passes += 1
        if token == EXPAND:
            gap[at : at + 1] = [model.mask_id] * 2
            budget -= 1
        elif token in model.stop_ids:
            gap = gap[:at] + [one for one in gap[at + 1 :] if one != model.mask_id]
        else:
            gap[at] = token
    return gap, passes


def replayed(steps: list[Step]) -> dict[int, int]:
    """The region as steps leave it to a reader who knows nothing of growth, and whose text only grows."""
    region, text = dict[int, int](), ""
    for step in steps:
        assert step.text.startswith(text)
        text = step.text
        for place in step.remasked:
            del region[place]
        for one in step.revealed:
            assert one.position not in region
            region[one.position] = one.token_id
        for one in step.written:
            assert one.position in region
            region[one.position] = one.token_id
    return region


@pytest.mark.parametrize("i", range(6))
def test_decoding_equals_the_published_loop(model: Model, i: int) -> None:
    request = ask(model, i)
    assert request.spare == MOST - GAP
    expected, passes = published(model, request)
    steps = list(Engine(model).run([request]))
    result = steps[-1].result
    assert result is not None
    assert (list(result.token_ids), result.forward_passes) == (expected, passes)
    assert replayed(steps) == dict(enumerate(expected))
    assert [step.ended for step in steps] == [False] * (passes - 1) + [True]
    assert result.positions == tuple(range(len(expected)))
    assert result.generated == len(expected)


class Watcher:
    """Reveals the leftmost mask, and tells how many passes the block had and how far predictions have moved."""

    Options: ClassVar[type[Any]] = NoOptions
    needs = Needs(kl=True)

    def decide(self, view: View, state: State) -> Decision:
        reveal = view.eligible & (view.eligible.cumsum(1) == 1)
        return Decision(reveal, record={"step": view.block_step, "kl": view.need("kl"), "mask": view.mask})


def test_a_move_is_a_new_start_for_schedulers(model: Model) -> None:
    """What they or the engine keep from pass to pass counts positions, which have moved."""
    request = replace(ask(model, 1), scheduler=SchedulerSpec("watcher", NoOptions(), Watcher()))
    since, moves = 0, 0
    for step in Engine(model).run([request]):
        kl = step.record["kl"][step.record["mask"]]
        assert int(step.record["step"]) == since
        assert kl.isinf().all() == (since == 0)
        moved = not any(one.step == step.index for one in step.revealed)
        since, moves = 0 if moved else since + 1, moves + moved
    assert moves > 1


def test_the_model_grows_and_shrinks_gaps_or_the_test_would_tell_nothing(model: Model) -> None:
    lengths = {len(published(model, ask(model, i))[0]) for i in range(6)}
    assert min(lengths) < GAP < max(lengths)


@pytest.mark.parametrize("scheduler", scheduler_names())
def test_every_scheduler_keeps_the_laws(model: Model, scheduler: str) -> None:
    requests = [ask(model, i, scheduler, temperature=0.9 * (i % 2), seed=i) for i in range(3)]
    for request in requests:
        steps = list(Engine(model).run([request]))
        result = steps[-1].result
        assert result is not None
        assert list(result.token_ids) == [replayed(steps)[place] for place in result.positions]
        assert EXPAND not in result.token_ids
        assert len(result.token_ids) <= MOST
        assert all(one.step < result.forward_passes for one in result.reveals)
    others = [ask(model, 7, cache=Cache("dual")), ask(model, 8, "remdm"), ask(model, 9, "topk", max_tokens=5)]
    together = outcomes(model, [others[0], *requests, *others[1:]], max_rows=4)
    assert together == [outcomes(model, [one])[0] for one in (others[0], *requests, *others[1:])]


def test_batch_invariant_is_exact(model: Model) -> None:
    requests = [ask(model, i, temperature=0.5, seed=i) for i in range(4)]
    alone = [outcomes(model, [one], batch_invariant=True)[0] for one in requests]
    assert outcomes(model, requests, batch_invariant=True) == alone


def test_a_model_that_only_expands_fills_the_region(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = liking(plain, monkeypatch, {EXPAND: 100.0})
    result = Engine(model).results([ask(model)])["r0"]
    assert (len(result.token_ids), result.finish_reason) == (MOST, "length")
    assert result.forward_passes == MOST - GAP + MOST
    few = Engine(model).results([ask(model, max_forward_passes=3)])["r0"]
    assert (len(few.token_ids), few.forward_passes) == (GAP + 2, 3)


def test_a_model_that_only_ends_leaves_the_gap_empty(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = liking(plain, monkeypatch, {STOP: 100.0})
    result = Engine(model).results([ask(model)])["r0"]
    assert (result.token_ids, result.text, result.finish_reason) == ((), "", "stop")
    result = Engine(model).results([ask(model, min_tokens=2)])["r0"]
    assert len(result.token_ids) == 2


def test_several_at_once_stay_within_the_region(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = liking(plain, monkeypatch, {EXPAND: 100.0})
    request = growing(replace(ask(model, scheduler="topk"), spare=0, max_tokens=6, block_length=6), model)
    request = replace(request, scheduler=parse_scheduler("topk", {"n": 4}))
    steps = list(Engine(model).run([request]))
    assert steps[-1].result is not None
    assert len(steps[-1].result.token_ids) == 6


def test_where_nothing_grows_no_token_for_it_is_written(plain: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = liking(plain, monkeypatch, {EXPAND: 100.0})
    fixed = [ask(model, 0, suffix=()), ask(model, 1, cache=Cache("dual")), ask(model, 2, block_length=4)]
    for result in Engine(model).results([*fixed, ask(model, 3, "joint")]).values():
        assert len(result.token_ids) == MOST
        assert EXPAND not in result.token_ids


def test_who_asks_for_growth_that_cannot_be_is_refused(plain: Model) -> None:
    for fields in ({"suffix": ()}, {"block_length": 4}, {"spare": MOST}, {"cache": Cache("dual")}):
        with pytest.raises(RequestError, match=r"cannot begin 1?[28] shorter here") as caught:
            Engine(plain).prepare(replace(ask(plain), **fields))
        assert caught.value.param == "spare"


def test_other_models_do_not_grow(plain: Model, tmp_path: Path) -> None:
    dream = load_model(str(synthetic_dream(tmp_path)), device="cpu", dtype="float32")
    assert (plain.expand_id, dream.expand_id) == (EXPAND, None)
    assert ask(dream).spare == 0
    with pytest.raises(RequestError, match="cannot begin 8 shorter"):
        Engine(dream).prepare(ask(plain))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with live(synthetic_dreamon(tmp_path / "tiny"), default_block_length=64) as running:
        liking(running.app.state.backend.model, monkeypatch, {EXPAND: 4.0, STOP: 3.0})
        yield running


def test_a_server_infills_with_as_much_as_it_takes(server: Any) -> None:
    body = {"suffix": " a", "max_tokens": MOST, "scheduler": "entropy", "return_steps": True, "seed": 0}
    answers = [server.http.post("/v1/completions", json={**body, "prompt": "the " * i}).json() for i in range(1, 6)]
    lengths = [answer["usage"]["completion_tokens"] for answer in answers]
    assert min(lengths) < max(lengths)
    for answer, length in zip(answers, lengths, strict=True):
        (choice,) = answer["choices"]
        assert len(choice["token_steps"]) == length
        assert all(0 <= step < answer["diffusion"]["forward_passes"] for step in choice["token_steps"])
        streamed = server.http.post("/v1/completions", json={**body, "prompt": "the ", "stream": True}).text
        assert "<|expand|>" not in streamed + choice["text"]
