"""The engine on a device without values: one upload a step, no read but the last, no operand on the wrong device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.fake_device import run
from tests.synthetic_relatives import FAMILIES, KINDS
from unmask.engine import Request
from unmask.engine.caching import parse_cache
from unmask.engine.structure import matching
from unmask.models.architecture import Architecture
from unmask.models.loading import Model, load_model
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler, scheduler_names


def load(family: str, folder: Path) -> Model:
    return load_model(str(FAMILIES[family](folder)), device="cpu", dtype="bfloat16")


def caches(a: Architecture) -> Sequence[str]:
    return ("none", "prefix", "dual", "dual:refresh=2") if a.block_size is None else ("none", "block")


def requests(a: Architecture) -> Iterator[Request]:
    """Every scheduler and every cache; drawn and not, with and without log-probabilities, a suffix, pinned tokens."""
    some = cycle(caches(a))
    for i, name in enumerate(scheduler_names()):
        spec = parse_scheduler(name)
        whole = spec.scheduler().needs.window == "generation"
        if whole and a.block_size is not None:
            continue
        yield Request(
            id=name,
            prompt=tuple(range(3, 9 + i)),
            max_tokens=4,
            block_length=2,
            scheduler=spec,
            temperature=(0.0, 0.7)[i % 2],
            top_p=0.9,
            seed=i,
            cache=parse_cache("none" if whole else next(some)),
            top_logprobs=(0, 0, 3)[i % 3],
            suffix=(4, 5) if i == 1 and a.block_size is None else (),
            template=(7, None) * 2 if i == 2 and a.block_size is None else (),
            structure=matching("&*", "regex") if i in (3, 4, 5) else None,
        )


@pytest.mark.parametrize(("family", "static"), [*zip(KINDS, cycle((True, False)), strict=False)])
def test_a_step_uploads_once_and_reads_once(family: str, static: bool, tmp_path: Path) -> None:
    """Every scheduler in three families; in the others every fifth, as what is theirs is the network."""
    model = load(family, tmp_path)
    asked = list(requests(model.network.architecture))
    watch = run(model, asked if family in KINDS[:3] else asked[::5], static)
    assert watch.operators > 1000
    assert not watch.faults


@pytest.mark.parametrize("family", ["llada", "sdar"])
def test_a_device_that_is_not_cuda_is_asked_for_nothing_special(family: str, tmp_path: Path) -> None:
    """As mps and xpu: no graph, no pinned memory, no float64, and no more reads and uploads than elsewhere.

    No network asks for float64; what does so are draws, structures and schedulers, which are the same in every family.
    """
    model = load(family, tmp_path)
    watch = run(model, list(requests(model.network.architecture)), static=None, no_float64=True)
    assert watch.operators > 1000
    assert not watch.faults


def test_float64_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load("llada", tmp_path)
    asked = Request("r", (3, 4, 5), 8, 4, parse_scheduler("sched"))
    assert not run(model, [asked], static=None, no_float64=True).faults
    monkeypatch.setattr("unmask.schedulers.sched.wide", lambda x: x.double())
    assert "makes float64" in str(run(model, [asked], static=None, no_float64=True).faults)


@dataclass(frozen=True)
class NoOptions:
    pass


class Peeking:
    """Looks at values on the host, at every step."""

    Options: ClassVar[type[Any]] = NoOptions
    needs: Needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        assert view.mask.nonzero().shape[1] == 2
        return Decision(view.most_confident())


class Astray(Peeking):
    """Keeps a table on the CPU."""

    def decide(self, view: View, state: State) -> Decision:
        return Decision(view.mask & torch.ones(view.mask.shape, dtype=torch.bool, device="cpu"))


@pytest.mark.parametrize(("rogue", "fault"), [(Peeking(), "nonzero"), (Astray(), "device")])
def test_what_a_step_may_not_do_is_seen(tmp_path: Path, rogue: Peeking, fault: str) -> None:
    model = load("llada", tmp_path)
    asked = Request("r", (3, 4, 5), 8, 4, SchedulerSpec("rogue", NoOptions(), rogue))
    with pytest.raises((AssertionError, RuntimeError), match=fault):
        assert str(run(model, [asked], static=False).faults) == "Counter()"
