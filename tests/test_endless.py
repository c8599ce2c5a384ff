"""Positions at which no end of text may be proposed: `min_tokens` first ones, or with `ignore_eos` all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.outcomes import outcome, outcomes
from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.proposal import Proposal, propose
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

ROUNDING = 1e-5
LENGTH = 12


@pytest.fixture(scope="module", params=["llada", "dream", "sdar", "fast_dllm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return eager(request.param, tmp_path_factory.mktemp("checkpoint") / request.param)


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return eager("llada", tmp_path_factory.mktemp("checkpoint") / "llada")


def eager(family: str, folder: Path) -> Model:
    """A model that would end every text at once: its ends of text are what it likes best."""
    model = load_model(str(FAMILIES[family](folder)), device="cpu", dtype="float32")
    plain = Request("plain", (3, 4, 5), LENGTH, fit(model), parse_scheduler("topk"), ignore_eos=True)
    liked = Engine(replace(model, stop_ids=frozenset())).results([plain, replace(plain, id="hot", temperature=1.0)])
    return replace(model, stop_ids=frozenset(token for result in liked.values() for token in result.token_ids))


def fit(model: Model) -> int:
    return model.network.architecture.block_size or 4


def some(model: Model) -> list[Request]:
    """Requests that forbid ends of text at no, some and all positions, with every scheduler and cache."""
    block = model.network.architecture.block_size
    caches = ("none", "prefix", "dual", "dual:refresh=2") if block is None else ("none", "block")
    names = [name for name in scheduler_names() if name != "policy"]
    specs = [parse_scheduler(name) for name in names]
    if block is not None:
        specs = [spec for spec in specs if spec.scheduler().needs.window != "generation"]
    return [
        Request(
            id=f"{spec.name}-{i}",
            prompt=tuple(range(3, 6 + i % 5)),
            max_tokens=LENGTH,
            block_length=fit(model),
            scheduler=spec,
            temperature=(0.0, 0.9)[i % 2],
            seed=i,
            cache=parse_cache("none" if spec.scheduler().needs.window == "generation" else caches[i % len(caches)]),
            min_tokens=(0, 7, 3)[i % 3],
            ignore_eos=i % 4 == 3,
            top_logprobs=(0, 2)[i // 2 % 2],
        )
        for i, spec in enumerate(specs)
    ]


def test_no_end_of_text_is_proposed_there(model: Model) -> None:
    requests = {request.id: request for request in some(model)}
    ended = 0
    for step in Engine(model).run(requests.values()):
        request = requests[step.request_id]
        least = request.max_tokens if request.ignore_eos else request.min_tokens
        for reveal in step.revealed:
            if reveal.position < least:
                assert not {reveal.token_id, *(token for token, _ in reveal.top)} & model.stop_ids
        if step.result is not None:
            assert len(step.result.token_ids) >= least
            ended += step.result.finish_reason == "stop"
    assert ended > 2  # the others would be forbidden nothing else


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
@pytest.mark.parametrize("batch_invariant", [False, True], ids=["together", "batch-invariant"])
def test_a_crowd_equals_alone(model: Model, static: bool, batch_invariant: bool) -> None:
    requests = some(model)[::5]
    options: dict[str, Any] = {"static": static, "batch_invariant": batch_invariant, "memory_fraction": 0.05}
    alone = [outcomes(model, [request], **options)[0] for request in requests]
    engine = Engine(model, max_rows=6, **options)
    for _ in range(4 if static else 1):  # the third pass of a shape is captured
        found = engine.results(requests)
    assert [outcome(found[request.id]) for request in requests] == alone


def test_what_is_proposed_instead_is_the_next_best(llada: Model) -> None:
    request = Request("r", (3, 4, 5), LENGTH, LENGTH, parse_scheduler("topk"), min_tokens=5, top_logprobs=3)
    step = next(Engine(llada).run([request, replace(request, id="free", min_tokens=0)]))
    (reveal,) = step.revealed
    with torch.no_grad():
        canvas = torch.tensor([[*request.prompt, *[llada.mask_id] * LENGTH]])
        p = llada.network.logits(canvas)[0, 3 + reveal.position].softmax(-1)  # of all, also of what is forbidden
    p[[llada.mask_id, *range(llada.vocab_size, len(p))]] = 0
    if reveal.position < 5:
        p[list(llada.stop_ids)] = 0
    values, ids = p.topk(3)
    assert [token for token, _ in reveal.top] == ids.tolist()
    assert [q for _, q in reveal.top] == pytest.approx(values.tolist(), abs=ROUNDING)
    assert (reveal.token_id, reveal.probability) == reveal.top[0]


def test_a_request_that_forbids_nothing_costs_nothing(llada: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for all positions, as ever, unless a batch holds positions of both kinds."""
    calls: list[tuple[int, int]] = []  # positions, forbidden ids

    def counted(head: Any, hidden: Tensor, forbidden: Tensor, *rest: Any) -> Proposal:
        calls.append((len(hidden), int(forbidden.sum())))
        return propose(head, hidden, forbidden, *rest)

    monkeypatch.setattr("unmask.engine.engine.propose", counted)
    plain = Request("plain", (3, 4, 5), 8, 8, parse_scheduler("topk"), max_forward_passes=1)
    ignoring, least = replace(plain, id="ignoring", ignore_eos=True), replace(plain, id="least", min_tokens=3)
    always = llada.network.architecture.vocab_rows - llada.vocab_size + 1
    cases: list[tuple[Sequence[Request], list[tuple[int, int]]]] = [
        ([plain], [(8, always)]),
        ([ignoring], [(8, always + len(llada.stop_ids))]),
        ([plain, ignoring, least], [(13, always), (11, always + len(llada.stop_ids))]),
    ]
    for requests, expected in cases:
        calls.clear()
        Engine(llada).results(requests)
        assert calls == expected


def test_a_given_end_of_text_stays(llada: Model) -> None:
    end = min(llada.stop_ids)
    request = Request("r", (3,), 4, 4, parse_scheduler("topk"), template=(None, end, None, None), ignore_eos=True)
    assert Engine(llada).results([request])["r"].token_ids[1] == end
