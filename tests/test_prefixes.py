"""Keys and values of finished blocks stay after their request: found again by content, and never wrong."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.outcomes import outcome
from tests.synthetic_block import synthetic_sdar
from tests.synthetic_relatives import FAMILIES
from tests.test_batch_invariance import exact
from tests.test_lora import adapter
from unmask.engine import Engine, Request, Result
from unmask.engine.caching import Cache
from unmask.engine.errors import NotFiniteError
from unmask.engine.input_state import parse_input_state
from unmask.engine.structure import choice
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.models.packing import PackedBatch
from unmask.schedulers import parse_scheduler, scheduler_names

BLOCK = 4
IN_BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sdar": ("sdar", {"block_size": BLOCK}),
    "fast_dllm": ("fast_dllm", {"bd_size": BLOCK}),  # reads each prediction one column to the left
    "llada2.2": ("llada2", {"block_size": BLOCK, "expert_capacity": 4}),
    "a2d_qwen3": ("a2d_qwen3", {"block_size": BLOCK}),  # blocks are counted from the end of the prompt
}
SCHEDULERS = [name for name in scheduler_names() if parse_scheduler(name).needs().window != "generation"]
SYSTEM = tuple(5 + i % 50 for i in range(90))  # what prompts have in common


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    def loaded(name: str, dtype: str = "float32") -> Model:
        family, changes = IN_BLOCKS[name]
        folder = FAMILIES[family](tmp_path_factory.mktemp(name), **changes)
        return load_model(str(folder), device="cpu", dtype=dtype)

    return loaded


@pytest.fixture(scope="module")
def sdar(load: Callable[..., Model]) -> Model:
    return load("sdar")


def make(id: str, prompt: Sequence[int], max_tokens: int = 10, **changes: Any) -> Request:
    plain = Request(
        id, tuple(prompt), max_tokens, BLOCK, parse_scheduler("topk"), cache=Cache("block"), ignore_eos=True
    )
    return replace(plain, **changes)


def fed(model: Model) -> tuple[Counter[tuple[int, ...]], Any]:
    """How often the network is given each whole block without a mask, by its number and tokens; of one row alone."""
    counted: Counter[tuple[int, ...]] = Counter()

    def count(_: Any, inputs: tuple[PackedBatch, ...]) -> None:
        tokens = dict(zip(inputs[0].positions.tolist(), inputs[0].tokens.tolist(), strict=True))
        for block in range(min(tokens) // BLOCK, max(tokens) // BLOCK + 1):
            found = tuple(tokens.get(column, model.mask_id) for column in range(BLOCK * block, BLOCK * block + BLOCK))
            counted[(block, *found)] += model.mask_id not in found

    return counted, model.network.register_forward_pre_hook(count)


def talk(engine: Engine, turns: int = 10) -> list[tuple[Request, Result]]:
    """A chat: each prompt is the last one, its answer, and what the user says next."""
    prompt, said = tuple(range(5, 18)), list[tuple[Request, Result]]()
    for turn in range(turns):
        request = make(f"turn-{turn}", prompt)
        result = engine.results([request])[request.id]
        said.append((request, result))
        prompt = (*prompt, *result.token_ids, *(60 + (7 * turn + i) % 40 for i in range(5)))
    return said


def test_a_chat_of_ten_turns_computes_each_settled_block_once(sdar: Model) -> None:
    counted, hook = fed(sdar)
    try:
        found = talk(Engine(sdar))
        known = +counted
        counted.clear()
        plain = talk(Engine(sdar, prefix_reuse=False))
        again = max(counted.values())
    finally:
        hook.remove()
    assert [outcome(result) for _, result in found] == [outcome(result) for _, result in plain]
    assert again == 10
    assert set(known.values()) == {1}
    assert {result.cached_tokens for _, result in plain} == {None}
    kept = 0
    for request, result in found:
        assert result.cached_tokens == kept
        # The last block of an answer has no pass with its final tokens.
        kept = (len(request.prompt) + 10 - 1) // BLOCK * BLOCK
    assert len(known) == (len(found[-1][0].prompt) + 10 - 1) // BLOCK


def crowd(model: Model, count: int, wave: int) -> Iterator[Request]:
    """Requests that differ in everything, whose prompts begin alike."""
    for i in range(count):
        name = SCHEDULERS[(i + wave) % len(SCHEDULERS)]
        revises = parse_scheduler(name).needs()
        states = ("mask", "residual", "soft") if not (revises.remask or revises.write) else ("mask",)
        yield make(
            f"{wave}-{i}",
            (*SYSTEM[: 20 + i * 13 % 70], *(100 + (i + j) % 30 for j in range(i % 6))),
            max_tokens=6 + i * 3 % 11,
            block_length=(4, 2, 1)[i % 3],
            scheduler=parse_scheduler(name),
            temperature=(0.0, 0.9)[i % 2],
            seed=i,
            ignore_eos=i % 7 != 3 and i % 2 == 0,
            top_logprobs=(0, 2)[i % 2],
            structure=choice(["yes", "no"], "structured_outputs") if i % 7 == 3 else None,
            input_state=parse_input_state(states[i % len(states)]),
        )


def run(engine: Engine, requests: Sequence[Request], cancelled: Sequence[str]) -> dict[str, Result]:
    """The results of those that are not cancelled, which each are at a step of its own."""
    found, left = dict[str, Result](), list(cancelled)
    for request in requests:
        engine.submit(request)
    for count in range(10_000):
        steps = engine.step()
        found |= {step.request_id: step.result for step in steps if step.result is not None}
        if left and count % 3 == 1:
            engine.cancel(left.pop())
        if not (engine.running or engine.waiting):
            break
    return {id: result for id, result in found.items() if id not in cancelled}


def waves(model: Model, tell: Callable[[Result], Any], rows: int = 4, **options: Any) -> int:
    """Assert that two crowds in turn get what each request gets by itself, told so. Returns the tokens found."""
    engine, cached = Engine(model, rows, 0.05, **options), 0
    apart = Engine(model, 1, 0.05, prefix_reuse=False, **options)
    for wave in (0, 1):
        requests = list(crowd(model, 14, wave))
        found = run(engine, requests, [requests[2].id, requests[9].id])
        assert len(found) == 12
        cached += sum(result.cached_tokens or 0 for result in found.values())
        for request in requests:
            if request.id in found:
                alone = apart.results([request])[request.id]
                assert tell(alone) == tell(found[request.id]), request
    return cached


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_a_crowd_equals_alone_without(load: Callable[..., Model], name: str) -> None:
    assert waves(load(name), outcome) > 500


def test_padded_steps_too(sdar: Model) -> None:
    assert waves(sdar, outcome, static=True) > 500


@pytest.mark.parametrize(("name", "dtype"), [("sdar", "bfloat16"), ("fast_dllm", "float32"), ("a2d_qwen3", "bfloat16")])
def test_batch_invariance_is_bit_for_bit(load: Callable[..., Model], name: str, dtype: str) -> None:
    assert waves(load(name, dtype), exact, batch_invariant=True) >= 64


def small(model: Model, columns: int, monkeypatch: pytest.MonkeyPatch, rows: int = 1, **options: Any) -> Engine:
    """An engine whose memory has so many columns."""
    share = (columns + 0.5) * KeyValues.bytes_per_column(model.network.architecture, model.dtype) / (1 << 30)
    monkeypatch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
    return Engine(model, rows, share, **options)


def cached(engine: Engine, request: Request) -> int:
    result = engine.results([request])[request.id]
    alone = Engine(engine.model, prefix_reuse=False).results([request])[request.id]
    assert outcome(result) == outcome(alone)
    return result.cached_tokens or 0


def test_what_was_used_least_recently_goes(sdar: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {name: make(name, range(first, first + 29), 3) for name, first in (("a", 5), ("b", 50), ("c", 95))}
    engine = small(sdar, 64 + 64, monkeypatch)  # beside a slot there is room for two texts of 7 blocks, and 2 blocks
    assert [cached(engine, texts[name]) for name in "abab"] == [0, 0, 28, 28]
    assert [cached(engine, texts[name]) for name in "aca"] == [28, 0, 28]
    assert cached(engine, texts["b"]) == 8  # its last blocks went, the first ones can be used still


def test_a_slot_takes_the_room_that_it_needs(sdar: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small(sdar, 128, monkeypatch, rows=2)
    assert [cached(engine, make("a", range(5, 34), 3)) for _ in range(2)] == [0, 28]
    assert cached(engine, make("long", range(5, 115), 3)) == 0  # its slot is all of the memory
    assert cached(engine, make("a", range(5, 34), 3)) == 0
    for i in range(4):
        engine.submit(make(f"r{i}", range(5, 34), 3))
    engine.step()
    assert engine.running == 2  # both slots, none of them refused
    assert len(list(engine.steps())) > 0


def test_what_a_row_finds_goes_last(sdar: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small(sdar, 128 + 32, monkeypatch)
    assert [cached(engine, make(str(first), range(first, first + 29), 3)) for first in (5, 50)] == [0, 0]
    assert cached(engine, make("long", range(5, 115), 3)) == 28  # beside its slot there is room for 8 blocks


def test_a_prompt_is_found_while_its_first_request_runs(sdar: Model) -> None:
    engine = Engine(sdar)
    engine.submit(make("first", range(5, 34), 20))
    engine.step()
    assert cached(engine, make("second", range(5, 34), 3)) == 28


def test_pages_move_out_of_the_way_of_slots(sdar: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small(sdar, 64 * 3, monkeypatch, rows=2)
    first, last = make("first", range(5, 66), 3), make("last", range(100, 161), 3)
    assert [cached(engine, first), cached(engine, last)] == [0, 0]  # 15 blocks each
    engine.submit(make("x", range(40, 60), 8))
    engine.submit(make("y", range(40, 60), 8))  # the second slot leaves room for 16 blocks
    assert len(list(engine.steps())) > 0
    assert cached(engine, last) >= 40


def test_adapters_never_share(tmp_path: Path) -> None:
    base = synthetic_sdar(tmp_path / "base", block_size=BLOCK)
    lora = [
        str(adapter(tmp_path / name, base, ["q_proj", "v_proj", "down_proj"], seed))
        for seed, name in ((1, "a"), (2, "b"))
    ]
    model = load_model(str(base), device="cpu", dtype="float32", lora=lora)
    engine = Engine(model)
    for expected in (0, 28):
        for which in (None, 0, 1):
            assert cached(engine, make(f"{which}", range(5, 34), 3, adapter=which)) == expected


def test_the_grid_of_blocks_is_part_of_the_name(load: Callable[..., Model]) -> None:
    """The same tokens in blocks that begin elsewhere have other keys."""
    model = load("a2d_qwen3")
    engine, prompt = Engine(model), range(5, 34)
    assert cached(engine, make("29", prompt, 3)) == 0
    assert cached(engine, make("28", prompt[:28], 3)) == 0
    assert cached(engine, make("25", prompt[:25], 3)) == 25
    assert cached(engine, make("again", prompt, 3)) == 29


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_nan_is_never_kept(sdar: Model, monkeypatch: pytest.MonkeyPatch, batch_invariant: bool) -> None:
    """The pages lie where the slot of a longer row comes to lie, which masks them: NaN would count, times zero."""
    engine = small(sdar, 192, monkeypatch, batch_invariant=batch_invariant)
    with torch.no_grad():
        before, sdar.network.embed.weight[200] = sdar.network.embed.weight[200].clone(), torch.nan
    try:
        engine.submit(make("sick", (*range(5, 50), 200, *range(50, 84)), 3))
        with pytest.raises(NotFiniteError):
            engine.step()
    finally:
        with torch.no_grad():
            sdar.network.embed.weight[200] = before
    assert not engine.running
    assert cached(engine, make("healthy", (*range(5, 50), 200, *range(50, 84)), 3)) == 0
    assert cached(engine, make("long", range(5, 135), 3)) < 60


def test_rows_without_a_cache_look_for_nothing(sdar: Model) -> None:
    engine = Engine(sdar)
    for cache, expected in (("block", 0), ("none", None), ("block", 28)):
        request = make("r", range(5, 34), 3, cache=Cache("none" if cache == "none" else "block"))
        assert engine.results([request])["r"].cached_tokens == expected
