"""How far predictions moved since the pass before, against the model asked again; and who wants to know, KLASS."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.outcomes import outcomes
from tests.synthetic import synthetic_llada
from unmask.engine import Engine, Request
from unmask.models.loading import Model, load_model
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, top_n

ROUNDING = 1e-5


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@dataclass(frozen=True)
class NoOptions:
    pass


class Watcher:
    """Reveals two tokens a pass and tells what it saw."""

    Options: ClassVar[type[Any]] = NoOptions
    needs = Needs(kl=True)

    def decide(self, view: View, state: State) -> Decision:
        assert view.kl is not None
        reveal = top_n(view.confidence, view.eligible, torch.full_like(view.step, 2))
        return Decision(reveal, record={"kl": view.kl, "mask": view.mask, "tokens": view.tokens})


def _predicted(model: Model, request: Request, canvas: Tensor) -> Tensor:
    """Log-probabilities (max_tokens, V) of a canvas (max_tokens,)."""
    tokens = torch.cat([torch.tensor(request.prompt), canvas])[None]
    with torch.inference_mode():
        return model.network.logits(tokens)[0, len(request.prompt) :].float().log_softmax(-1)


def test_moves_are_those_of_the_models_predictions(llada: Model) -> None:
    watcher = SchedulerSpec("watcher", NoOptions(), Watcher())
    request = Request("a", (5, 6, 7), 10, 5, watcher)
    other = Request("b", (3, 4), 14, 14, parse_scheduler("topk"))
    canvas = torch.full((10,), llada.mask_id)
    before: Tensor | None = None
    for step in Engine(llada).run([other, request]):
        if step.request_id == "b":
            continue
        start, mask = 5 * step.block, step.record["mask"][:5]
        now = _predicted(llada, request, canvas)
        kl = step.record["kl"][:5][mask]
        if before is None:
            assert kl.isinf().all()
        else:
            expected = (now.exp() * (now - before)).sum(-1)[start : start + 5][mask]
            assert torch.allclose(kl, expected, atol=ROUNDING)
            assert (expected > 10 * ROUNDING).any()
        before = None if step.ended else now
        for reveal in step.revealed:
            canvas[reveal.position] = reveal.token_id


def test_klass_alone_equals_klass_in_company(llada: Model) -> None:
    loose = {"threshold": 0.0, "epsilon": 0.5, "history": 1}
    schedulers = [parse_scheduler("klass", loose), parse_scheduler("klass"), parse_scheduler("margin")]
    requests = [
        Request(str(i), tuple(range(3, 6 + i)), *shape, schedulers[i % 3], seed=i)
        for i, shape in enumerate([(9, 8), (24, 8), (12, 12), (17, 5), (6, 6)])
    ]
    together = outcomes(llada, requests)
    assert together == [outcomes(llada, [request])[0] for request in requests]
    assert outcomes(llada, requests, static=True) == together
