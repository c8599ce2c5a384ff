"""Matrices in int8: how they are rounded, what they come to in a network, and the memory that they take."""

import re
import sys
import weakref
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.live import ANSWER, PATIENCE, QUESTION, wait_for
from tests.outcomes import outcomes
from tests.process import answers, free_port, serving
from tests.synthetic import edit_json, edit_tensors, synthetic_llada
from tests.synthetic_relatives import FAMILIES
from unmask.engine.caching import choose_cache
from unmask.engine.request import Request
from unmask.evals.measure import Cell
from unmask.evals.tasks import find_task
from unmask.models import memory, quantization
from unmask.models.config import read_json
from unmask.models.errors import CheckpointError
from unmask.models.families import find_family
from unmask.models.loading import Model, build_network, load_model
from unmask.models.quantization import choose_packing, levels_and_scale, pack_int8
from unmask.schedulers import parse_scheduler

EXACT = 1e-4  # float32, absolute and relative: sums of another order, and scaled before or after
DEVIATIONS = 6  # of a normal distribution, within which what is sure to 1 in 10^9 lies
WIDE = {"d_model": 128, "n_layers": 12, "mlp_hidden_size": 384}
TOKENS = torch.tensor([[5, 265, 9, 40, 268, 270, 7, 100, 265, 3], [8, 9, 261, 265, 265, 12, 64, 65, 66, 67]])
BLOCK = re.compile(r"\.(blocks|layers)\.\d+\.")


def load(folder: Path | str, dtype: str = "float32", quantization: str | None = "int8") -> Model:
    return load_model(str(folder), device="cpu", dtype=dtype, quantization=quantization)


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model.network.logits(TOKENS)


def step(weight: Tensor) -> Tensor:
    """The scale of each row of a matrix (N, K): (N, 1)."""
    return weight.abs().amax(-1, keepdim=True) / 127.5


def rounded(weight: Tensor) -> Tensor:
    return (weight * (1 / step(weight))).round().clamp(-128, 127) * step(weight)


def storages(network: nn.Module) -> dict[int, int]:
    """{address: bytes} of the memory behind a network's parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    parts = [part for tensor in tensors for part in (*levels_and_scale(tensor), _groups(tensor)) if part is not None]
    return {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}


def _groups(tensor: Tensor) -> Tensor | None:
    """Scales and zero points of what is in four bits."""
    return getattr(tensor, "scale_and_zero", None)


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A checkpoint of each family."""
    return FAMILIES[request.param](tmp_path / "tiny")


# Rounding


def test_numbers_are_rounded_to_the_nearest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(3, 37, 64, generator=torch.Generator().manual_seed(0))
    weight[1, 4] = 0
    levels, scale = levels_and_scale(pack_int8(weight))
    assert scale is not None
    assert (levels.dtype, levels.shape, scale.shape) == (torch.int8, weight.shape, (3, 37, 1))
    assert ((levels * scale - weight).abs() <= step(weight) * (0.5 + EXACT)).all()
    monkeypatch.setattr(quantization, "NUMBERS_AT_A_TIME", 5 * 64)
    for part, other in zip(levels_and_scale(pack_int8(weight)), (levels, scale), strict=True):
        assert part is not None
        assert torch.equal(part, other)


def test_a_quantised_network_is_the_plain_one_with_rounded_matrices(folder: Path) -> None:
    """Of all matrices in blocks but the router's, as the checkpoint has them; embedding and head stay."""
    packed = load(folder)

    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if BLOCK.search(name) and tensor.dim() == 2 and not name.endswith("mlp.gate.weight"):
                tensors[name] = rounded(tensor)

    edit_tensors(folder, change)
    plain = load(folder, quantization=None)
    torch.testing.assert_close(logits(packed), logits(plain), atol=EXACT, rtol=EXACT)
    asked = requests(plain)[:4]  # some positions are wanted, not all as above
    assert outcomes(packed, asked) == outcomes(plain, asked)


def test_logits_move_as_far_as_rounding_lets_them(tmp_path: Path) -> None:
    """To first order a logit moves by the sum of gradient times error, and an error is uniform within half a step."""
    plain, packed = (load(synthetic_llada(tmp_path), quantization=kind) for kind in (None, "int8"))
    weights = [
        module.weight.requires_grad_() for module in plain.network.blocks.modules() if isinstance(module, nn.Linear)
    ]
    expected = plain.network.logits(TOKENS)
    moved = (logits(packed) - expected).detach()
    for at in [(0, 0, 7), (0, 9, 80), (1, 3, 265), (1, 5, 3), (1, 9, 200)]:
        gradients = torch.autograd.grad(expected[at], weights, retain_graph=True, allow_unused=True)
        pairs = [(g, w.detach()) for g, w in zip(gradients, weights, strict=True) if g is not None]
        deviation = sum(float((g.pow(2) * step(w).pow(2) / 12).sum()) for g, w in pairs) ** 0.5
        assert 0 < abs(float(moved[at])) < DEVIATIONS * deviation


# Memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_is_what_a_network_takes(folder: Path, dtype: str) -> None:
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    for kind in (None, "int8"):
        model = load(folder, dtype, kind)
        assert memory.weight_bytes(network, model.dtype, kind) == sum(storages(model.network).values())


def test_blocks_take_half_of_bfloat16_and_a_scale_a_row(tmp_path: Path) -> None:
    plain, packed = (
        load(synthetic_llada(tmp_path, **WIDE), "bfloat16", quantization=kind).network for kind in (None, "int8")
    )
    took, takes = (sum(storages(network.blocks).values()) for network in (plain, packed))
    norms = WIDE["n_layers"] * 2 * WIDE["d_model"] * torch.bfloat16.itemsize
    narrowest = WIDE["d_model"]
    assert 0.5 * (took - norms) < takes - norms <= 0.5 * (took - norms) * (1 + 4 / narrowest)


class Peak(TorchDispatchMode):
    """The most bytes that tensors made meanwhile took at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self.now = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and not tensor.is_meta and not func.is_view:
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self._add(storage.nbytes())
            weakref.finalize(storage, self._add, -storage.nbytes())

    def _add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("files", [1, 3])
def test_loading_takes_one_block_more_than_the_quantised_weights(
    tmp_path: Path, files: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "NUMBERS_AT_A_TIME", 1 << 13)
    folder = synthetic_llada(tmp_path, files, **WIDE)
    load(folder, quantization=kind)  # the first time torchao is imported
    with Peak() as peak:
        model = load(folder, quantization=kind)
    a = model.network.architecture
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    joined = 2 * a.ffn_size * a.hidden_size * model.dtype.itemsize  # gate and up, once more
    assert peak.now == sum(storages(model.network).values())
    assert peak.most <= memory.loading_bytes(network, model.dtype, kind) + joined
    assert peak.most < 0.5 * memory.weight_bytes(network, model.dtype)


def test_what_fits_only_when_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_llada(tmp_path, **WIDE)
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    needed = memory.needed_bytes(network, torch.bfloat16, "int8")
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    assert load(folder, "bfloat16").precision == "bfloat16 with int8 weights"
    with pytest.raises(CheckpointError, match=r"in bfloat16 and cpu has .*; use --quantization int8 or int4, another"):
        load(folder, "bfloat16", None)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 1)
    with pytest.raises(CheckpointError, match=r"in bfloat16 with int8 weights .*; use --quantization int4, "):
        load(folder, "bfloat16")


@pytest.mark.gpu
def test_on_a_gpu_a_block_is_quantised_where_it_is(tmp_path: Path) -> None:
    pytest.importorskip("torchao")  # `make gpu` takes what packages an image has
    folder = synthetic_llada(tmp_path, d_model=512, n_layers=12, mlp_hidden_size=1536)
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    model = load_model(str(folder), device="cuda", dtype="bfloat16", quantization="int8")
    peak = torch.cuda.max_memory_allocated() - start
    assert peak < memory.weight_bytes(network, model.dtype)
    assert model.network.logits(TOKENS.cuda()).isfinite().all()


# In the engine


def requests(model: Model) -> list[Request]:
    """Requests that differ in prompt, length, blocks, scheduler, cache, temperature and seed."""
    a = model.network.architecture
    kinds = ("topk", "threshold", "entropy", "random")
    length = a.block_size or 4
    return [
        Request(
            str(i),
            prompt=tuple(range(3, 8 + i % 5)),
            max_tokens=length * (1 + i % 3),
            block_length=length,
            scheduler=parse_scheduler(kinds[i % len(kinds)], {}),
            temperature=(0.0, 0.7)[i // 2 % 2],
            seed=i,
            cache=choose_cache(("none", "auto")[i // 4 % 2], a),
        )
        for i in range(8)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_equals_alone(family: str, tmp_path: Path) -> None:
    model = load(FAMILIES[family](tmp_path, **({"block_size": 8} if family == "llada2" else {})))
    asked = requests(model)
    assert outcomes(model, asked) == [outcomes(model, [one])[0] for one in asked]


def test_static_steps_equal_others(tmp_path: Path) -> None:
    model = load(synthetic_llada(tmp_path))
    asked = requests(model)
    assert outcomes(model, asked, static=True) == outcomes(model, asked, static=False)


def test_a_compiler_takes_the_network_as_one_graph(tmp_path: Path) -> None:
    model = load(synthetic_llada(tmp_path))
    expected = logits(model)
    model.network.compile(backend="eager", dynamic=True, fullgraph=True)
    torch.testing.assert_close(logits(model), expected, atol=EXACT, rtol=EXACT)


def test_a_report_tells_quantised_from_plain(tmp_path: Path) -> None:
    model = load(synthetic_llada(tmp_path))
    what = Cell(find_task("sudoku"), parse_scheduler("topk", {}), 8, 1).identity(model)
    assert what["dtype"] == "float32 with int8 weights"


def test_a_server_by_its_variable(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(Path("llada-nano"), port, quantization="int8", dtype="bfloat16") as process:
        wait_for(lambda: answers(url))
        body = {"messages": [{"role": "user", "content": QUESTION}]}
        answer = httpx.post(f"{url}/generate", json=body, timeout=PATIENCE).json()
        process.terminate()
        _, log = process.communicate(timeout=PATIENCE)
    assert answer["text"] == ANSWER
    assert f"serving llada-nano at {url}, on cpu in bfloat16 with int8 weights" in log


# What is refused


def test_without_torchao_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_llada(tmp_path)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(CheckpointError, match=r"needs torchao \(.*\); pip install 'unmask\[quant\]'"):
        load(folder)
    assert load(folder, quantization=None).precision == "float32"


@pytest.mark.parametrize(
    ("quantization", "dtype", "said"),
    [
        ("int3", torch.bfloat16, "'int3' is unknown; choose int8, int4 or none"),
        ("int8", torch.float16, "use --dtype bfloat16"),
        ("int4", torch.float16, "use --dtype bfloat16"),
    ],
)
def test_what_cannot_be_quantised(quantization: str, dtype: torch.dtype, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        choose_packing(quantization, dtype)


@pytest.mark.parametrize(
    ("method", "named"),
    [("gptq", "GPTQ"), ("awq", "AWQ"), ("bitsandbytes", "bitsandbytes"), ("fp8", "'fp8'"), (None, "does not name")],
)
def test_quantised_checkpoints_of_others_are_refused_by_name(tmp_path: Path, method: str | None, named: str) -> None:
    folder = synthetic_llada(tmp_path)
    edit_json(folder / "config.json", quantization_config={} if method is None else {"quant_method": method})
    with pytest.raises(CheckpointError, match=f"quantised by .*{named}.*; load the checkpoint that"):
        load(folder, quantization=None)


def test_a_checkpoint_that_is_quantised_already(tmp_path: Path) -> None:
    name = "model.transformer.blocks.1.ff_out.weight"
    folder = synthetic_llada(tmp_path)
    edit_tensors(folder, lambda t: t.update({name: t[name].to(torch.int8)}))
    with pytest.raises(CheckpointError, match=f"{name} .* has dtype I8; only .* are supported"):
        load(folder)
