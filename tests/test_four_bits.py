"""Matrices in four bits: what they round to, the memory that they take, and where there are none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.outcomes import outcomes
from tests.synthetic import edit_tensors, synthetic_llada
from tests.synthetic_relatives import FAMILIES
from tests.test_quantization import BLOCK, EXACT, load, logits, requests, storages
from unmask.models import memory, quantization
from unmask.models.config import read_json
from unmask.models.errors import CheckpointError
from unmask.models.families import find_family
from unmask.models.loading import build_network
from unmask.models.quantization import GROUP, choose_packing, pack_int4, packed_bytes

# Families without experts, and sizes that torchao packs in four bits.
FOUR_BITS: dict[str, dict[str, Any]] = {
    "llada": {"mlp_hidden_size": 96},
    "dream": {"intermediate_size": 96},
    "sdar": {"intermediate_size": 96},
    "fast_dllm": {"intermediate_size": 96},
}


def rounded4(weight: Tensor) -> Tensor:
    """A matrix with each group of a row at 16 levels from its smallest number to its largest."""
    groups = weight.unflatten(-1, (-1, GROUP))
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (most - least) / 15
    return (((groups - least) / scale).round().clamp(0, 15) * scale + least).flatten(-2)


@pytest.mark.parametrize("family", [name for name, changes in FOUR_BITS.items()])
def test_four_bits_are_the_plain_network_with_rounded_matrices(family: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path, **FOUR_BITS[family])
    packed = load(folder, quantization="int4")

    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if BLOCK.search(name) and tensor.dim() == 2:
                tensors[name] = rounded4(tensor)

    edit_tensors(folder, change)
    plain = load(folder, quantization=None)
    torch.testing.assert_close(logits(packed), logits(plain), atol=EXACT, rtol=EXACT)
    asked = requests(plain)[:4]
    assert outcomes(packed, asked) == outcomes(plain, asked)


def test_a_matrix_is_packed_in_parts_as_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(208, 96, generator=torch.Generator().manual_seed(0))
    whole = pack_int4(weight)
    monkeypatch.setattr(quantization, "NUMBERS_AT_A_TIME", 64 * 96)
    parts = pack_int4(weight)
    for name in ("qdata", "scale_and_zero"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FOUR_BITS)
def test_the_estimate_of_four_bits_too(family: str, dtype: str, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path, **FOUR_BITS[family])
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    model = load(folder, dtype, "int4")
    assert memory.weight_bytes(network, model.dtype, "int4") == sum(storages(model.network).values())


def test_batched_equals_alone_in_four_bits(tmp_path: Path) -> None:
    model = load(synthetic_llada(tmp_path, **FOUR_BITS["llada"]), quantization="int4")
    asked = requests(model)
    assert outcomes(model, asked) == [outcomes(model, [one])[0] for one in asked]


def test_a_compiler_takes_four_bits_too(tmp_path: Path) -> None:
    model = load(synthetic_llada(tmp_path, **FOUR_BITS["llada"]), quantization="int4")
    expected = logits(model)
    model.network.compile(backend="eager", dynamic=True, fullgraph=True)
    torch.testing.assert_close(logits(model), expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(
    ("dtype", "device", "experts", "said"),
    [
        (torch.bfloat16, "cpu", True, "not for networks with experts, which torchao lacks; use int8"),
        (torch.bfloat16, "mps", False, "is for CPUs and CUDA, and not for mps; use int8 or none"),
        (torch.float32, "cuda", False, "computes in bfloat16 on CUDA; use --dtype bfloat16"),
    ],
)
def test_where_there_are_no_four_bits(dtype: torch.dtype, device: str, experts: bool, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        choose_packing("int4", dtype, torch.device(device), experts)


def test_a_card_that_is_too_old_for_four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(CheckpointError, match=r"needs a card of compute capability 8\.0 or more; use int8"):
        choose_packing("int4", torch.bfloat16, torch.device("cuda"))


def test_sizes_that_four_bits_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lots of 16 rows and 32 columns, .* has one of 32 x 80; use int8"):
        load(synthetic_llada(tmp_path), quantization="int4")


def test_four_bits_on_cuda_are_counted_with_their_padding() -> None:
    """Dream's feed-forward has 18944 columns: torchao pads them to 19456."""
    down = torch.empty(3584, 18944, device="meta")
    sizes = [packed_bytes(down, "int4", torch.bfloat16, torch.device(kind)) for kind in ("cpu", "cuda")]
    assert sizes == [3584 * (18944 // 2 + 592 * 4), 3584 * (19456 // 2 + 608 * 4)]
