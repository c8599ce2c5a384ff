"""The option `steps`: as many forward passes as were asked for, over every scheduler that has it."""

import random
from dataclasses import replace

import pytest

from tests.synthetic import synthetic_llada
from tests.synthetic_block import synthetic_sdar
from unmask.engine import Engine, Request
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_class, scheduler_names

COUNTING = [name for name in scheduler_names() if "steps" in scheduler_class(name).Options.__dataclass_fields__]
GRID = 8


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")
    return replace(model, stop_ids=frozenset())


@pytest.fixture(scope="module")
def sdar(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = synthetic_sdar(tmp_path_factory.mktemp("checkpoint"), block_size=GRID)
    return replace(load_model(str(folder), device="cpu", dtype="float32"), stop_ids=frozenset())


def request(id: object, steps: int, max_tokens: int, block_length: int, scheduler: str = "topk") -> Request:
    return Request(str(id), (3, 4), max_tokens, block_length, parse_scheduler(scheduler, {"steps": steps}))


def blocks(request: Request, grid: bool) -> int:
    """How many blocks have masks."""
    offset = len(request.prompt) if grid else 0
    masks = [i for i, token in enumerate(request.template or [None] * request.max_tokens) if token is None]
    return len({(offset + i) // request.block_length for i in masks})


def passes(model: Model, requests: list[Request]) -> list[int]:
    results = Engine(model).results(requests)
    return [results[request.id].forward_passes for request in requests]


def expected(request: Request, steps: int, grid: bool) -> int:
    """At least one for each block, at most one for each mask."""
    masks = request.template.count(None) if request.template else request.max_tokens
    return min(max(steps, blocks(request, grid)), masks)


@pytest.mark.parametrize(
    ("max_tokens", "block_length", "steps"),
    [(64, 16, 10), (64, 16, 9), (128, 8, 24), (128, 8, 23), (128, 32, 6), (128, 32, 5), (33, 32, 5), (33, 32, 33)],
)
def test_steps_that_do_not_divide_by_the_blocks(llada: Model, max_tokens: int, block_length: int, steps: int) -> None:
    assert passes(llada, [request("r", steps, max_tokens, block_length)]) == [steps]


@pytest.mark.parametrize("scheduler", COUNTING)
def test_steps_are_the_passes_wherever_they_can_be(llada: Model, sdar: Model, scheduler: str) -> None:
    """Side by side, with templates, and in blocks that are counted from the start of the prompt, too."""
    rng = random.Random(scheduler)
    for model, grid in ((llada, False), (sdar, True)):
        requests, wanted = [], []
        for i in range(24):
            steps, length = rng.randrange(1, 48), rng.randrange(1, 48)
            plain = request(i, steps, length, rng.choice([1, 2, 4, 8] if grid else [1, 3, 7, 16, 48]), scheduler)
            template = tuple(rng.choice([None, 7]) for _ in range(length)) if i % 3 == 0 else ()
            if None in template:
                plain = replace(plain, template=template)
            requests.append(replace(plain, prompt=(3,) * rng.randrange(1, 12)))
            wanted.append(expected(requests[-1], steps, grid))
        assert passes(model, requests) == wanted


def test_a_block_is_filled_evenly(llada: Model) -> None:
    """Passes over a block reveal as many tokens as each other, or one more at first."""
    for steps in (4, 5, 7, 9, 10, 18, 23, 41, 63, 64):
        counts: dict[int, list[int]] = {}
        for step in Engine(llada).run([request("r", steps, 64, 16)]):
            counts.setdefault(step.block, []).append(len(step.revealed))
        for revealed in counts.values():
            assert sorted(revealed, reverse=True) == revealed
            assert revealed[0] - revealed[-1] <= 1
        assert max(map(len, counts.values())) - min(map(len, counts.values())) <= 1


def test_a_cap_below_the_steps_ends_them(llada: Model) -> None:
    assert passes(llada, [replace(request("r", 20, 32, 8), max_forward_passes=7)]) == [7]
