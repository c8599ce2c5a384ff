"""Nemotron-Labs-Diffusion: what is before a block is read from left to right, and predicts its first token."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.outcomes import outcomes
from tests.rogues import NoOptions
from tests.synthetic import edit_json, edit_tensors
from tests.synthetic_nemotron import CONFIG, ROPE, nemotron_generate, nemotron_oracle, open_logits, synthetic_nemotron
from tests.test_block_decoding import columns_computed
from tests.test_checkpoints import assert_refused
from unmask.engine import Engine, Request
from unmask.engine.caching import Cache, parse_cache
from unmask.models.loading import Model, load_model
from unmask.models.packing import SIZES, Segment, Shapes, pack_segments
from unmask.models.whole import whole_rows
from unmask.schedulers import Decision, Needs, SchedulerSpec, State, View, parse_scheduler

EXACT = 1e-5  # float32, absolute and relative: the same sums in another order
ROUNDING = 1e-4
TOKENS = torch.randint(3, 260, (2, 45), generator=torch.Generator().manual_seed(0))
BLOCK = CONFIG["block_size"]


def load(folder: Path) -> Model:
    return load_model(str(folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return replace(load(synthetic_nemotron(tmp_path_factory.mktemp("checkpoint"))), stop_ids=frozenset())


def ask(id: str = "r", scheduler: str = "topk", cache: str = "block", **fields: Any) -> Request:
    spec = parse_scheduler(scheduler, {"threshold": 0.15} if scheduler == "threshold" else {})
    asked = Request(id, tuple(range(5, 18)), 24, BLOCK, spec, cache=parse_cache(cache))
    return replace(asked, **fields)


# The network

# Pairs slowed in part; none slowed; the published turns, where nearly all are.
ROTATIONS: list[dict[str, Any]] = [
    {},
    {"factor": 1.0},
    {"beta_fast": 32.0, "beta_slow": 1.0, "rope_theta": 1e6},
]


@pytest.mark.parametrize("rotation", ROTATIONS, ids=str)
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4, "head_dim": 8, "rms_norm_eps": 0.1}], ids=str)
def test_it_equals_a_stock_ministral(changes: dict[str, Any], rotation: dict[str, Any], tmp_path: Path) -> None:
    changes = {**changes, "rope_parameters": {**ROPE, **rotation}}
    found, oracle = load(synthetic_nemotron(tmp_path, **changes)), nemotron_oracle({**CONFIG, **changes})
    for first in (0, 13, 45):
        with torch.no_grad():
            logits = found.network.logits(TOKENS, prompt=first)
        torch.testing.assert_close(logits, open_logits(oracle, TOKENS, first), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("shapes", SIZES)
def test_rows_that_are_open_elsewhere_share_a_pass(model: Model, shapes: Shapes) -> None:
    rows, opens = [TOKENS[0], TOKENS[1, :30], TOKENS[1]], (40, 0, 45)
    wanted = np.arange(26, 30)
    segments = [Segment(row.numpy(), 0, len(row), wanted, open=first) for row, first in zip(rows, opens, strict=True)]
    inputs = pack_segments(segments, model.network.architecture, shapes=shapes)
    with torch.inference_mode():
        found = model.network.head(model.network(inputs.batch()))[: 4 * len(rows)]
        alone = [
            model.network.logits(row[None], prompt=first)[0, wanted] for row, first in zip(rows, opens, strict=True)
        ]
    torch.testing.assert_close(found, torch.cat(alone), atol=EXACT, rtol=EXACT)


# Decoding


@pytest.mark.parametrize("cache", ["none", "block"])
@pytest.mark.parametrize("scheduler", ["topk", "threshold"])
@pytest.mark.parametrize("block_length", [1, 2, BLOCK])
def test_decoding_equals_the_published_loop(tmp_path: Path, block_length: int, scheduler: str, cache: str) -> None:
    model = replace(load(synthetic_nemotron(tmp_path)), stop_ids=frozenset())
    stock = nemotron_oracle(CONFIG)
    forbidden = [model.mask_id, *range(model.vocab_size, model.network.head.out_features)]
    with torch.no_grad():  # the oracle forbids nothing, so the model must not want what the engine forbids
        model.network.head.weight[forbidden] = 0
        stock.lm_head.weight[forbidden] = 0
    request = ask(scheduler=scheduler, cache=cache, block_length=block_length)
    threshold = 0.15 if scheduler == "threshold" else None
    expected, passes = nemotron_generate(stock, request.prompt, 24, block_length, model.mask_id, threshold)
    result = Engine(model).results([request])[request.id]
    assert list(result.token_ids) == expected
    assert result.forward_passes == passes  # that over the prompt counts here, and the last block's keys are not made
    assert (passes < 24) is (scheduler == "threshold" and block_length == BLOCK)


def test_the_pass_that_keeps_a_block_predicts_the_next_token(model: Model) -> None:
    computed = columns_computed(model, ask(max_tokens=2 * BLOCK + 1))
    within = [BLOCK] * (BLOCK - 1)
    assert computed == [13, *within, BLOCK, *within, BLOCK]


def test_a_block_may_begin_with_a_given_token(model: Model) -> None:
    """Then no pass is spent on it: the keys of the block before are made in the first pass over this one."""
    template: tuple[int | None, ...] = (None,) * BLOCK + (9,) + (None,) * (BLOCK - 1)
    request = ask(max_tokens=2 * BLOCK, template=template)
    computed = columns_computed(model, request)
    assert computed == [13, *[BLOCK] * (BLOCK - 1), 2 * BLOCK, *[BLOCK] * (BLOCK - 2)]
    assert outcomes(model, [request]) == outcomes(model, [replace(request, cache=Cache())])


def test_without_a_prompt_the_first_block_predicts_itself(model: Model) -> None:
    template = (None,) * (BLOCK - 1) + (9,)
    result = Engine(model).results([ask(prompt=(), max_tokens=BLOCK, template=template)])["r"]
    canvas = torch.tensor([[model.mask_id] * (BLOCK - 1) + [9]])
    with torch.no_grad():
        p, ids = model.network.logits(canvas)[0].softmax(-1)[:, : model.mask_id].max(-1)
    p[-1] = 0
    first = result.reveals[0]
    assert (first.position, first.token_id) == (int(p.argmax()), int(ids[p.argmax()]))


def test_steps_are_kept_to(model: Model) -> None:
    for steps in (6, 9, 17, 24):  # three blocks, whose first tokens have passes of their own
        spec = parse_scheduler("topk", {"steps": steps})
        assert Engine(model).results([replace(ask(), scheduler=spec)])["r"].forward_passes == steps


def test_the_first_token_of_a_block_counts_as_one_of_its_own(model: Model) -> None:
    canvas = Engine(model).prepare(ask())
    assert (canvas.blocks, canvas.later) == (6, (23, 5))
    assert Engine(model).prepare(ask(block_length=1)).blocks == 24


def test_few_passes_are_enough(model: Model) -> None:
    for most in (1, 2, 9, 10):
        result = Engine(model).results([ask(max_forward_passes=most)])["r"]
        assert (len(result.token_ids), result.forward_passes) == (24, most)


def test_blocks_end_once(model: Model) -> None:
    steps = list(Engine(model).run([ask(max_tokens=BLOCK + 3)]))
    assert [step.index for step in steps if step.ended] == [BLOCK - 1, BLOCK + 2]
    assert [step.block for step in steps] == [0] * BLOCK + [1] * 3


@pytest.mark.parametrize("scheduler", ["topk", "threshold", "random", "joint", "remdm", "wino", "klass", "credit"])
def test_alone_equals_in_company_of_other_places(model: Model, scheduler: str) -> None:
    """Rows in the first token of a block, in the middle of one and behind, with caches and without."""
    requests = [
        ask(f"{i}", scheduler, ("block", "none")[i % 2], prompt=tuple(range(3, 6 + 3 * i)), temperature=0.5 * (i % 3))
        for i in range(5)
    ]
    requests = [replace(one, block_length=(8, 4, 1, 8, 2)[i], max_tokens=9 + i) for i, one in enumerate(requests)]
    alone = [outcomes(model, [request])[0] for request in requests]
    assert outcomes(model, requests, max_rows=3) == alone
    assert outcomes(model, requests, batch_invariant=True) == alone
    assert outcomes(model, [replace(one, cache=Cache()) for one in requests]) == alone


class Watcher:
    """Reveals one token a pass and tells what hidden states it saw, and where."""

    Options: ClassVar[type[Any]] = NoOptions
    needs = Needs(hidden=True)

    def decide(self, view: View, state: State) -> Decision:
        reveal = view.eligible & (view.eligible.cumsum(1) == 1)
        return Decision(reveal, record={"hidden": view.need("hidden"), "mask": view.mask})


@torch.inference_mode()
def test_schedulers_see_the_hidden_states_that_predict(model: Model) -> None:
    request = ask(scheduler="topk", max_tokens=2 * BLOCK + 2)
    request = replace(request, scheduler=SchedulerSpec("watcher", NoOptions(), Watcher()))
    a, canvas, start = model.network.architecture, [*request.prompt, *[model.mask_id] * request.max_tokens], 13
    for step in Engine(model).run([request]):
        place = start + step.block * BLOCK
        at = start + step.revealed[0].position
        seen = torch.tensor(canvas[: place if at == place else place + BLOCK])[None]
        hidden = model.network(whole_rows(seen, a, place))
        expected = hidden[-1:] if at == place else hidden[place + 1 :] * step.record["mask"][:, None]
        torch.testing.assert_close(step.record["hidden"], expected, atol=ROUNDING, rtol=0)
        canvas[at] = step.revealed[0].token_id


# Loading


def test_it_is_ready_to_run(tmp_path: Path) -> None:
    model = load(synthetic_nemotron(tmp_path))
    assert (model.mask_id, model.stop_ids) == (CONFIG["mask_token_id"], frozenset({CONFIG["eos_token_id"]}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_parameters": None}, ["lacks the object 'rope_parameters'"]),
        ({"rope_parameters": {**ROPE, "rope_type": "linear"}}, ['rope_type = "linear"', '"yarn"']),
        ({"rope_parameters": {**ROPE, "mscale": 0.5}}, ["mscale = 0.5"]),
        ({"rope_parameters": {**ROPE, "attention_factor": 2}}, ["attention_factor = 2"]),
        ({"rope_parameters": {**ROPE, "factor": None}}, ["factor = null", "a positive number"]),
        ({"dlm_paradigm": "autoregressive"}, ["dlm_paradigm", '"bidirectional"']),
        ({"sliding_window": 4096}, ["sliding_window = 4096"]),
        ({"block_size": None}, ["block_size = null"]),
    ],
    ids=str,
)
def test_configs_that_it_cannot_do(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    edit_json(synthetic_nemotron(tmp_path) / "config.json", **changes)
    assert_refused(tmp_path, *said)


NORM = "encoder.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("diffusion_head.weight"), ["lacks", "diffusion_head.weight"]),
        (lambda t: t.update({"lm_head.weight": t["diffusion_head.weight"].clone()}), ["lm_head.weight", "does not"]),
        (lambda t: t.update({NORM: t[NORM][1:].clone()}), [NORM, "[31]", "must be [32]"]),
    ],
    ids=["missing head", "another head", "misshapen norm"],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], said: list[str]
) -> None:
    edit_tensors(synthetic_nemotron(tmp_path), change)
    assert_refused(tmp_path, *said)
