"""Packed passes: whatever is packed, padded or cached, the logits are those of whole rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.synthetic_relatives import FAMILIES, KINDS
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.models.packing import SIZES, Segment, Shapes, pack_segments

EXACT = 1e-5  # float32, absolute and relative: the same sums in another order
CAPACITY = 64
LENGTHS = (30, 30, 21)  # a last row that is shorter needs care: the others lie in order


IN_BLOCKS: dict[str, dict[str, Any]] = {"sdar": {}, "sdar_moe": {}, "fast_dllm": {}, "llada2": {"block_size": 8}}


def load(family: str, folder: Path) -> Model:
    """A model; the blocks of one that attends in blocks are short enough for a row to have several."""
    return load_model(str(FAMILIES[family](folder, **IN_BLOCKS.get(family, {}))), device="cpu", dtype="float32")


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(request.param, tmp_path_factory.mktemp("checkpoint"))


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 260, (length,), generator=generator) for length in LENGTHS]


def wanted(length: int) -> np.ndarray:
    return np.arange(length - 6, length, 2)


def expected(model: Model) -> Tensor:
    """What each row alone gives at the wanted columns, one row after another."""
    return torch.cat([whole(model, row) for row in rows()])


def whole(model: Model, row: Tensor) -> Tensor:
    return model.network.logits(row[None])[0, wanted(len(row))]


def run(model: Model, segments: list[Segment], cache: KeyValues | None, shapes: Shapes) -> Tensor:
    a = model.network.architecture
    inputs = pack_segments(segments, a, CAPACITY, shapes)
    with torch.inference_mode():
        return model.network.head(model.network(inputs.batch(), cache))


def cache_of(model: Model) -> KeyValues:
    torch.use_deterministic_algorithms(True)  # fills memory that nobody has written with NaN, as it may be on a GPU
    cache = KeyValues(model.network.architecture, 4 * CAPACITY, model.device, model.dtype)
    cache.allocate()
    torch.use_deterministic_algorithms(False)
    cache.resize(CAPACITY, used=0)
    return cache


def segment(row: Tensor, start: int, slot: int | None) -> Segment:
    return Segment(row[start:].numpy(), start, len(row), wanted(len(row)), slot)


@pytest.mark.parametrize("shapes", SIZES)
def test_packed_rows_equal_each_alone(model: Model, shapes: Shapes) -> None:
    found = run(model, [segment(row, 0, None) for row in rows()], None, shapes)
    torch.testing.assert_close(found[: 3 * len(LENGTHS)], expected(model), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("shapes", SIZES)
def test_keys_of_an_earlier_pass_serve_as_well_as_fresh_ones(model: Model, shapes: Shapes) -> None:
    cache = cache_of(model)
    slots = (2, None, 0)
    run(model, [segment(row, 0, slot) for row, slot in zip(rows(), slots, strict=True)], cache, shapes)
    later = [segment(row, 0 if slot is None else len(row) - 9, slot) for row, slot in zip(rows(), slots, strict=True)]
    found = run(model, later, cache, shapes)
    torch.testing.assert_close(found[: 3 * len(LENGTHS)], expected(model), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("family", IN_BLOCKS)
@pytest.mark.parametrize("shapes", SIZES)
def test_blocks_before_serve_without_those_behind(tmp_path: Path, family: str, shapes: Shapes) -> None:
    """The keys of a finished block never change: they are made before the next one has any tokens at all."""
    model = load(family, tmp_path)
    cache = cache_of(model)
    block_size = model.network.architecture.block_size
    assert block_size is not None
    for slot, row in enumerate(rows()):
        last = (len(row) - 7) // block_size * block_size  # from here on lies all that the wanted columns need
        for begin in range(0, last, block_size):
            end = begin + block_size
            run(model, [Segment(row[begin:end].numpy(), begin, end, np.array([begin + 1]), slot)], cache, shapes)
        found = run(model, [segment(row, last, slot)], cache, shapes)
        torch.testing.assert_close(found[:3], whole(model, row), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("shapes", SIZES)
def test_rows_whose_blocks_begin_elsewhere_share_a_pass(tmp_path: Path, shapes: Shapes) -> None:
    folder = FAMILIES["a2d_qwen3"](tmp_path, block_size=8)
    model = load_model(str(folder), device="cpu", dtype="float32")
    a, prompts = model.network.architecture, (5, 16, 13)
    segments = [
        replace(segment(row, 0, None), lead=a.lead(prompt)) for row, prompt in zip(rows(), prompts, strict=True)
    ]
    alone = [
        model.network.logits(row[None], prompt=prompt)[0, wanted(len(row))]
        for row, prompt in zip(rows(), prompts, strict=True)
    ]
    found = run(model, segments, None, shapes)
    torch.testing.assert_close(found[: 3 * len(LENGTHS)], torch.cat(alone), atol=EXACT, rtol=EXACT)


def test_a_slot_keeps_what_it_holds_when_slots_move_and_grow(model: Model) -> None:
    cache = cache_of(model)
    row = rows()[0]
    run(model, [segment(row, 0, 1)], cache, "exact")
    cache.move(1, 0)
    cache.resize(2 * CAPACITY, used=1)
    assert cache.slots(2 * CAPACITY) == 2
    found = run(model, [segment(row, 5, 0)], cache, "exact")
    torch.testing.assert_close(found, whole(model, row), atol=EXACT, rtol=EXACT)
