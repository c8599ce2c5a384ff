"""Schedulers that look at hidden states see what the head sees, in the model's dtype, whatever shares the batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.outcomes import outcomes
from tests.rogues import NoOptions
from tests.synthetic_relatives import FAMILIES, KINDS
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.models.loading import Model, load_model
from unmask.models.whole import whole_rows
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, top_n

ROUNDING = 1e-4


@pytest.fixture(scope="module", params=[name for name in KINDS if name != "nemotron_diffusion"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = FAMILIES[request.param](tmp_path_factory.mktemp("checkpoint") / "tiny")
    return load_model(str(folder), device="cpu", dtype="float32")


class Watcher:
    """Reveals two tokens a pass and tells what it saw."""

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, needs: Needs):
        self.needs = needs

    def decide(self, view: View, state: State) -> Decision:
        reveal = top_n(view.confidence, view.eligible, torch.full_like(view.step, 2))
        return Decision(reveal, record={"hidden": view.need("hidden"), "mask": view.mask})


def watched(model: Model, needs: Needs, cache: str = "none") -> Request:
    block = model.network.architecture.block_size or 5
    watcher = SchedulerSpec("watcher", NoOptions(), Watcher(needs))
    return Request("r", (5, 6, 7), 10, block, watcher, cache=parse_cache(cache), ignore_eos=True)


@pytest.mark.parametrize("window", ["masks", "block"])
@pytest.mark.parametrize("cached", [False, True], ids=["plain", "cached"])
@torch.inference_mode()
def test_hidden_states_are_those_of_the_network(model: Model, window: Any, cached: bool) -> None:
    a = model.network.architecture
    exact = "dual:refresh=1" if a.block_size is None else "block"
    request = watched(model, Needs(hidden=True, window=window), exact if cached else "none")
    other = replace(request, id="other", max_tokens=7, scheduler=parse_scheduler("entropy"), ignore_eos=False)
    canvas, looked = torch.full((10,), model.mask_id), 0
    for step in Engine(model).run([other, request]):
        if step.request_id != "r":
            continue
        tokens = torch.cat([torch.tensor(request.prompt), canvas])[None]
        expected = model.network(whole_rows(tokens, a))[3:]
        offset = 3 % request.block_length if a.block_size else 0
        start = max(0, step.block * request.block_length - offset)
        end = min((step.block + 1) * request.block_length - offset, 10)
        mask, hidden = (step.record[name][: end - start] for name in ("mask", "hidden"))
        expected = expected[start:end] * (mask[:, None] | torch.tensor(window == "block"))
        torch.testing.assert_close(hidden, expected, atol=ROUNDING, rtol=0)
        looked += int((hidden != 0).any(-1).sum())
        for reveal in step.revealed:
            canvas[reveal.position] = reveal.token_id
    assert looked > 10


def test_they_are_in_the_models_dtype(tmp_path: Path) -> None:
    model = load_model(str(FAMILIES["llada"](tmp_path)), device="cpu", dtype="bfloat16")
    for step in Engine(model).run([watched(model, Needs(hidden=True))]):
        assert step.record["hidden"].dtype == torch.bfloat16
        assert step.record["hidden"].shape == (5, model.network.architecture.hidden_size)


def test_who_looks_alone_equals_in_company(model: Model) -> None:
    request = watched(model, Needs(hidden=True))
    others = [replace(request, id=name, scheduler=parse_scheduler(name), seed=3) for name in ("klass", "topk", "joint")]
    together = outcomes(model, [others[0], request, *others[1:]])
    assert together == [outcomes(model, [one])[0] for one in (others[0], request, *others[1:])]
