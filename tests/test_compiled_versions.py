"""How many versions torch.compile makes of the network and of what follows: each stops everybody while it is made."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.synthetic import synthetic_llada
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.input_state import parse_input_state
from unmask.models.loading import MAX_COMPILED_VERSIONS, load_model
from unmask.schedulers import parse_scheduler
from unmask.server.backend import Backend
from unmask.server.settings import ServeSettings

NETWORK_VERSIONS = 8
STATISTICS_VERSIONS = 8


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts versions by the name of what is compiled. No kernels are made: what is traced runs as it is."""
    made: Counter[str] = Counter()
    compile = torch.compile

    def counting(function: Any, **options: Any) -> Callable[..., Any]:
        name = getattr(function, "__name__", "")

        def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            made[name] += 1
            return graph.forward

        return compile(function, backend=backend, **{key: on for key, on in options.items() if key != "backend"})

    monkeypatch.setattr(torch, "compile", counting)
    yield made
    torch._dynamo.reset()


def traffic(i: int, random: random.Random, state: str) -> Request:
    """What clients may ask for, all at random but for the input state."""
    return Request(
        id=f"r{i}",
        prompt=tuple(random.randrange(3, 200) for _ in range(random.randrange(3, 40))),
        max_tokens=random.choice((8, 16, 24)),
        block_length=random.choice((4, 8)),
        scheduler=parse_scheduler(random.choice(("topk", "threshold", "entropy", "margin"))),
        temperature=random.choice((0.0, 0.7)),
        top_logprobs=random.choice((0, 0, 1, 2, 5, 20)),
        cache=parse_cache(random.choice(("none", "prefix", "dual"))),
        seed=i,
        input_state=parse_input_state(state),
        max_forward_passes=6,
    )


@pytest.mark.parametrize("state", ["mask", "residual", "soft"])
def test_the_warm_up_makes_what_traffic_needs(versions: Counter[str], tmp_path: Path, state: str) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32", compiled=True)
    engine = Engine(model, max_rows=4, static=True)
    settings = ServeSettings(max_rows=4, cache="dual", input_state=state)
    backend = Backend(settings, lambda model: None, lambda error: None)
    for lot in backend._warm_up_lots(model):
        engine.results(lot)
    warm = Counter(versions)
    draw = random.Random(0)
    for rows in (1, 1, 4, 8, 1, 4):
        engine.results([traffic(i, draw, state) for i in range(rows)])
    assert versions["_call_impl"] <= NETWORK_VERSIONS < MAX_COMPILED_VERSIONS
    assert versions["_most_probable"] <= STATISTICS_VERSIONS
    assert versions - warm == Counter()
