"""Biases, penalties and `min_p`: each step proposes what the changed logits say, and nothing else changes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.live import Live, live
from tests.outcomes import outcome
from tests.synthetic import synthetic_llada
from unmask.engine import Engine, Request
from unmask.engine.adjustment import Adjustment, adjustment_of
from unmask.engine.adjustment.adjust import Changes
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError
from unmask.engine.structure import choice
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler

LENGTH = 16
ADJUSTMENTS = [
    Adjustment(presence=1.5),
    Adjustment(frequency=0.8),
    Adjustment(frequency=-0.5),
    Adjustment(repetition=1.7),
    Adjustment(bias=((40, 3.0), (41, -4.0))),
    Adjustment(bias=((50, 1.0),), presence=0.5, frequency=0.5, repetition=1.2),
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"logit_bias": {"9999": 1}}, "logit_bias", "the model's tokens are 0 to"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a.[key]", "must match"),
    ({"logit_bias": {"3": 101}}, "logit_bias.3", "less than or equal to 100"),
    ({"logit_bias": [1]}, "logit_bias", "must be an object"),
    ({"presence_penalty": 3}, "presence_penalty", "less than or equal to 2"),
    ({"frequency_penalty": "much"}, "frequency_penalty", "must be a valid number"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"presence_penalty": 1, "scheduler": "joint"}, "scheduler", "choose another"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_llada(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_model(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Live]:
    with live(folder) as running:
        yield running


def make(i: int = 0, **fields: Any) -> Request:
    plain = Request(
        id=f"r{i}",
        prompt=tuple(range(3, 9 + i % 4)),
        max_tokens=LENGTH,
        block_length=LENGTH // 2,
        scheduler=parse_scheduler("topk"),
        seed=i,
        ignore_eos=True,
    )
    return replace(plain, **fields)


def test_changes_by_hand() -> None:
    changes = Changes(
        delta=torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0]]),
        seen=torch.tensor([[True, False, True], [False, False, False]]),
        repetition=torch.tensor([2.0, 1.0]),
        min_p=torch.zeros(2),
    )
    logits = torch.tensor([[4.0, 1.0, -3.0], [4.0, 1.0, -3.0]])
    assert changes.apply(logits, torch.tensor([0, 1])).tolist() == [[2.0, 3.0, -7.0], [4.0, 1.0, -3.0]]


@pytest.mark.parametrize("asked", ADJUSTMENTS, ids=str)
def test_each_step_reveals_what_the_changed_logits_say(model: Model, asked: Adjustment) -> None:
    request = make(adjustment=asked)
    canvas = torch.tensor([*request.prompt, *[model.mask_id] * LENGTH])
    for step in Engine(model).run([request]):
        (reveal,) = step.revealed
        logits = logits_of(model, canvas)[len(request.prompt) + reveal.position]
        changed = by_the_rules(logits, canvas, request, asked, model)
        assert reveal.token_id == int(changed.argmax())
        assert reveal.probability == pytest.approx(float(logits.softmax(-1)[reveal.token_id]), rel=1e-4)
        canvas[len(request.prompt) + reveal.position] = reveal.token_id
    plain = Engine(model).results([make()])["r0"].token_ids
    assert tuple(canvas[len(request.prompt) :].tolist()) != plain


@torch.inference_mode()
def logits_of(model: Model, canvas: Tensor) -> Tensor:
    """Raw logits (T, V) of a canvas, position by position."""
    from unmask.engine.scoring import Question, pack_questions

    known = canvas.tolist()
    question = Question(tuple(known), tuple(range(len(known))), tuple(known))
    inputs = pack_questions([question], model.network.architecture, "exact")
    return model.network.head(model.network(inputs.batch(), None)).float()[: len(known)]


def by_the_rules(logits: Tensor, canvas: Tensor, request: Request, asked: Adjustment, model: Model) -> Tensor:
    changed = logits.clone()
    prompt, region = canvas[: len(request.prompt)].tolist(), canvas[len(request.prompt) :].tolist()
    standing = [token for token in region if token != model.mask_id]
    for token in {*prompt, *standing}:
        changed[token] = changed[token] / asked.repetition if changed[token] > 0 else changed[token] * asked.repetition
    for token in set(standing):
        changed[token] -= asked.presence + asked.frequency * standing.count(token)
    for token, bias in asked.bias:
        changed[token] += bias
    changed[[model.mask_id, *model.stop_ids, *range(model.vocab_size, len(changed))]] = -torch.inf
    return changed


def test_alone_equals_in_a_crowd(model: Model) -> None:
    words = choice(["the cat", "the dog", "a hat"], "structured_outputs")
    requests = [
        make(
            i,
            adjustment=[None, *ADJUSTMENTS, Adjustment(min_p=0.2)][i % 8],
            temperature=(0.0, 1.0)[i // 2 % 2],
            structure=words if i % 3 == 0 else None,
            ignore_eos=i % 3 != 0,
            cache=parse_cache(("none", "dual")[i % 2]),
            scheduler=parse_scheduler(("topk", "random", "threshold", "remdm")[i % 4] if i % 2 == 0 else "topk"),
        )
        for i in range(24)
    ]
    engine, apart = Engine(model, max_rows=9), Engine(model)
    together = engine.results(requests)
    assert [outcome(together[r.id]) for r in requests] == [outcome(apart.results([r])[r.id]) for r in requests]


def test_a_bias_decides_what_a_form_leaves_open(model: Model) -> None:
    encode = model.tokenizer.encode
    words = choice(["c", "d", "h"], "structured_outputs")
    for word in "cdh":
        (token,) = encode(word)
        for temperature in (0.0, 1.0):
            asked = make(
                structure=words,
                adjustment=Adjustment(bias=((token, 100.0),)),
                temperature=temperature,
                ignore_eos=False,
            )
            assert Engine(model).results([asked])["r0"].text == word


def test_min_p_of_one_takes_the_most_probable(model: Model) -> None:
    hot = make(temperature=2.0)
    only = Engine(model).results([replace(hot, adjustment=Adjustment(min_p=1.0))])["r0"].token_ids
    assert only == Engine(model).results([make()])["r0"].token_ids
    assert Engine(model).results([hot])["r0"].token_ids != only


def test_min_p_leaves_out_what_is_improbable(model: Model) -> None:
    for step in Engine(model).run(
        [make(i, temperature=2.0, adjustment=Adjustment(min_p=0.5), top_logprobs=1) for i in range(9)]
    ):
        for reveal in step.revealed:
            # At temperature 2, half as probable is a quarter.
            assert reveal.probability >= 0.25 * reveal.top[0][1] * (1 - 1e-4)


def test_what_changes_nothing_is_no_adjustment() -> None:
    assert adjustment_of({3: 0}, 0, 0.0, 1, 0, 9) is None
    assert adjustment_of(None, None, None, None, None, 9) is None
    with pytest.raises(RequestError, match="the model's tokens are 0 to 8"):
        adjustment_of({9: 1}, None, None, None, None, 9)


def test_fields_reach_the_engine(server: Live) -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "ignore_eos": True}
    paths = {"/v1/chat/completions": asked, "/v1/completions": {"prompt": "hi", "max_tokens": 8, "ignore_eos": True}}
    for path, body in {**paths, "/generate": paths["/v1/completions"]}.items():
        extra = {} if path == "/generate" else {"return_token_ids": True}
        for fields in ({"logit_bias": {"70": 100}}, {"logit_bias": {"70": 100}, "temperature": 1, "min_p": 0.1}):
            answer = server.http.post(path, json={**body, **fields, **extra}).json()
            ids = answer["token_ids"] if path == "/generate" else answer["choices"][0]["token_ids"]
            assert ids == [70] * 8
    chosen = [
        server.http.post("/generate", json={**paths["/v1/completions"], **one}).json()["text"]
        for one in (
            {},
            {"presence_penalty": 2.0},
            {"frequency_penalty": -2.0},
            {"repetition_penalty": 3.0},
            {"presence_penalty": 0},
        )
    ]
    assert chosen[0] == chosen[4]
    assert len(set(chosen)) > 2


@pytest.mark.parametrize(("fields", "param", "message"), BAD, ids=lambda value: str(value)[:60])
def test_refuses(server: Live, fields: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 4, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], message in error["message"]) == (param, True), error
