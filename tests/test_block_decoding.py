"""Block-causal models in the engine: exact caches, blocks on the grid of the model, no pass but those that reveal."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.oracle import block_diffusion_generate
from tests.outcomes import outcomes
from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, Request
from unmask.engine.caching import Cache, choose_cache
from unmask.engine.errors import RequestError
from unmask.engine.request import fit_block_length
from unmask.engine.stopwatch import Stopwatch
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

BLOCK = 4
IN_BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdar": ("sdar", {"block_size": BLOCK}),
    "sdar_moe": ("sdar_moe", {"block_size": BLOCK}),
    "fast_dllm": ("fast_dllm", {"bd_size": BLOCK}),
    "llada2": ("llada2", {"block_size": BLOCK}),
    "a2d_qwen3": ("a2d_qwen3", {"block_size": BLOCK}),  # blocks are counted from the end of the prompt
    "llada2.2": ("llada2", {"block_size": BLOCK, "expert_capacity": 4}),  # experts are chosen for a block
    "nemotron_diffusion": ("nemotron_diffusion", {"block_size": BLOCK}),  # what is before a block is read causally
}


@pytest.fixture(scope="module", params=IN_BLOCKS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(request.param, tmp_path_factory)


@pytest.fixture(scope="module", params=[name for name in IN_BLOCKS if name != "nemotron_diffusion"])
def both_ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Those whose blocks see all of those before them; `tests.test_causal_context` has the other."""
    return load(request.param, tmp_path_factory)


def load(name: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, changes = IN_BLOCKS[name]
    folder = FAMILIES[family](tmp_path_factory.mktemp("checkpoint"), **changes)
    return load_model(str(folder), device="cpu", dtype="float32")


def varied(scheduler: str, cache: str, count: int = 8) -> list[Request]:
    """Requests whose prompts end at every place of a block, and whose last block may be cut."""
    return [
        Request(
            id=f"{scheduler}-{cache}-{i}",
            prompt=tuple(range(3, 4 + i)),
            max_tokens=(16, 9, 3, 12)[i % 4],
            block_length=(4, 2, 1, 4)[i % 4],
            scheduler=parse_scheduler(scheduler, {"threshold": 0.02} if scheduler == "threshold" else {}),
            temperature=(0.0, 0.9, 0.0)[i % 3],
            seed=i,
            cache=Cache("block" if cache == "block" else "none"),
        )
        for i in range(count)
    ]


EACH = [("sdar", scheduler) for scheduler in scheduler_names()]
OTHERS = [(name, scheduler) for name in IN_BLOCKS if name != "sdar" for scheduler in ("topk", "joint", "remdm")]


@pytest.mark.parametrize(("model", "scheduler"), [*EACH, *OTHERS], indirect=["model"])
def test_the_block_cache_is_exact(model: Model, scheduler: str) -> None:
    """With every scheduler for one family; for the others with such as reveal only, write over, and take back."""
    assert outcomes(model, varied(scheduler, "block")) == outcomes(model, varied(scheduler, "none"))


@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_cached_and_uncached_rows_in_one_batch_equal_alone(model: Model, static: bool) -> None:
    requests = [*varied("topk", "block"), *varied("topk", "none")]
    requests = requests[::2] + requests[1::2]
    alone = [outcomes(model, [request])[0] for request in requests]
    assert outcomes(model, requests, max_rows=5, static=static) == alone


@pytest.mark.parametrize(("prompt", "max_tokens"), [(8, 12), (10, 14), (3, 9)])
def test_topk_equals_the_published_loop(both_ways: Model, prompt: int, max_tokens: int) -> None:
    model = replace(both_ways, stop_ids=frozenset())
    forbidden = [model.mask_id, *range(model.vocab_size, model.network.head.out_features)]
    before = model.network.head.weight[forbidden].clone()
    request = replace(
        varied("topk", "block", 1)[0], prompt=tuple(range(3, 3 + prompt)), max_tokens=max_tokens, block_length=BLOCK
    )
    with torch.no_grad():  # the published loop forbids nothing, so the model must not want what the engine forbids
        model.network.head.weight[forbidden] = 0
    try:
        expected = block_diffusion_generate(
            partial(model.network.logits, prompt=prompt),
            request.prompt,
            max_tokens,
            BLOCK,
            model.mask_id,
            model.network.architecture.from_prompt_end,
        )
        result = Engine(model).results([request])[request.id]
    finally:
        with torch.no_grad():
            model.network.head.weight[forbidden] = before
    assert list(result.token_ids) == expected
    assert result.forward_passes == max_tokens  # no pass only to keep the keys of a finished block


def test_the_last_pass_over_a_block_is_the_first_of_the_next(both_ways: Model) -> None:
    reach = both_ways.network.architecture.reach
    request = replace(varied("topk", "block", 1)[0], prompt=tuple(range(3, 11)), max_tokens=12, block_length=BLOCK)
    computed = columns_computed(replace(both_ways, stop_ids=frozenset()), request)
    within = [BLOCK + reach] * (BLOCK - 1)
    assert computed == [8 + BLOCK, *within, 2 * BLOCK, *within, 2 * BLOCK, *within]


def columns_computed(model: Model, request: Request) -> list[int]:
    """How many columns each pass over a request computes."""
    watch, computed = Stopwatch(), list[int]()
    for _ in Engine(model, watch=watch).run([request]):
        computed.append(watch.tokens - sum(computed))
    return computed


def test_blocks_end_where_the_models_do(model: Model) -> None:
    request = replace(varied("topk", "block", 1)[0], prompt=(3, 4, 5), max_tokens=9, block_length=BLOCK)
    steps = list(Engine(replace(model, stop_ids=frozenset())).run([request]))
    if model.network.architecture.from_prompt_end:
        assert [step.index for step in steps if step.ended] == [3, 7, 8]  # columns 3 to 6, 7 to 10, 11
        assert [step.block for step in steps] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    else:
        assert [step.index for step in steps if step.ended] == [0, 4, 8]  # columns 3, 4 to 7, 8 to 11
        assert [step.block for step in steps] == [0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_a_block_length_that_does_not_fit_is_refused(model: Model) -> None:
    a = model.network.architecture
    with pytest.raises(RequestError, match=r"block_length 3 does not divide the model's block of 4.*1, 2, 4") as caught:
        Engine(model).submit(replace(varied("topk", "block", 1)[0], block_length=3))
    assert caught.value.param == "block_length"
    assert [fit_block_length(32, tokens, a) for tokens in (3, 64)] == [BLOCK, BLOCK]


def test_block_is_the_cache_of_models_that_attend_in_blocks(model: Model) -> None:
    assert choose_cache("auto", model.network.architecture) == Cache("block")
    with pytest.raises(RequestError, match="'dual' is not for this model, which is block-causal; use none or block"):
        choose_cache("dual", model.network.architecture)
