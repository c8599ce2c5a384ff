"""A rank's part of a network: what it reads, what it holds, and what cannot be split."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from tests.live import ANSWER, QUESTION, wait_for
from tests.synthetic import synthetic_llada
from tests.synthetic_block import synthetic_llada2
from tests.synthetic_relatives import FAMILIES
from unmask import LLM
from unmask.engine.errors import RequestError
from unmask.engine.network import LedKeyValues
from unmask.models import checkpoint
from unmask.models.cache import KeyValues
from unmask.models.errors import CheckpointError
from unmask.models.loading import Model, load_model
from unmask.models.split import Split

SOON = 60.0  # seconds; the machine may be busy
WIDE = {  # experts, so that a quarter of one is wide enough for products
    **{family: {"moe_intermediate_size": 32} for family in ("llada2", "sdar_moe", "rnd1")},
    "llada_moe": {"expert_intermediate_size": 32},
}
WHOLE = ("norm", "router")  # of every rank, in the names of the network
PASSIVE = {"bytes_per_column", "slots", "from_slot", "read", "write"}  # change nothing, or are called by the network


def followers(process: int) -> list[psutil.Process]:
    """The other ranks that a process has started and that live."""
    return [child for child in psutil.Process(process).children() if "unmask.engine.ranks.follow" in command(child)]


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def load(folder: Path, split: Split) -> Model:
    return load_model(str(folder), device="cpu", dtype="float32", split=split)


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """How many numbers are read of each tensor, from here on."""
    opened, numbers = vars(checkpoint)["safe_open"], list[int]()

    class Counted:
        """A file, or a tensor that is not read yet."""

        def __init__(self, of: Any):
            self._of = of

        def __enter__(self) -> "Counted":
            return Counted(self._of.__enter__())

        def __exit__(self, *error: Any) -> None:
            self._of.__exit__(*error)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._of, name)

        def get_tensor(self, name: str) -> Tensor:
            return self._noted(self._of.get_tensor(name))

        def get_slice(self, name: str) -> "Counted":
            return Counted(self._of.get_slice(name))

        def __getitem__(self, index: Any) -> Tensor:
            return self._noted(self._of[index])

        @staticmethod
        def _noted(tensor: Tensor) -> Tensor:
            numbers.append(tensor.numel())
            return tensor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "safe_open", lambda *args, **kwargs: Counted(opened(*args, **kwargs)))
        yield numbers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_reads_its_share_alone(family: str, ranks: int, tmp_path: Path) -> None:
    folder = FAMILIES[family](tmp_path, **WIDE.get(family, {}))
    whole = load(folder, Split()).network.state_dict()
    joint = [name for name in whole if "qkv" in name or ("gate_up.weight" in name)]  # views of these are there, too
    sizes = {name: t.numel() for name, t in whole.items() if name not in joint}
    for rank in range(ranks):
        with counted_reads() as numbers:
            network = load(folder, Split(rank, ranks)).network
        own = {name: t.numel() for name, t in network.state_dict().items() if name in sizes}
        if network.architecture.tied_head:
            own.pop("head.weight")
        assert sum(numbers) == sum(own.values())
        for name, size in own.items():
            shared = any(part in name for part in WHOLE)
            replicated = ".k." in name or ".v." in name  # where there are fewer heads than ranks
            assert size == sizes[name] // (
                1 if shared else min(ranks, network.split.key_parts) if replicated else ranks
            )


def test_columns_are_read_where_rows_are_not_the_ranks(tmp_path: Path) -> None:
    folder = synthetic_llada2(tmp_path)
    whole, part = (load(folder, split).network.state_dict() for split in (Split(), Split(1, 2)))
    width = whole["blocks.0.attention.o.weight"].shape[1] // 2
    assert torch.equal(part["blocks.0.attention.o.weight"], whole["blocks.0.attention.o.weight"][:, width:])
    assert torch.equal(part["embed.weight"], whole["embed.weight"][144:])
    down, gate_up = whole["blocks.1.ffn.down"], whole["blocks.1.ffn.gate_up"]
    assert torch.equal(part["blocks.1.ffn.down"], down[:, :, 12:])
    assert torch.equal(part["blocks.1.ffn.gate_up"], torch.cat([gate_up[:, 12:24], gate_up[:, 36:]], dim=1))


def test_keys_and_values_are_of_the_ranks_heads(tmp_path: Path) -> None:
    one, two, four = (load(synthetic_llada(tmp_path), Split(0, n)).network.architecture for n in (1, 2, 4))
    assert (one.kv_heads, two.kv_heads, four.kv_heads) == (2, 1, 1)
    assert (one.heads, two.heads, four.heads) == (4, 2, 1)
    taken = [KeyValues.bytes_per_column(a, torch.float32) for a in (one, two)]
    assert taken[0] == 2 * taken[1]


@pytest.mark.parametrize(
    ("changes", "ranks", "said"),
    [
        ({}, 5, "tensor_parallel 5 does not divide the model's 288 vocabulary rows; choose a number that does"),
        ({}, 8, "tensor_parallel 8 does not divide the model's 4 attention heads"),
        ({"n_heads": 8, "n_kv_heads": 8, "mlp_hidden_size": 84}, 8, "the model's 84 columns of feed-forward"),
        ({"n_heads": 6, "n_kv_heads": 2, "d_model": 36, "mlp_hidden_size": 84}, 3, "the model's 2 key/value heads"),
    ],
)
def test_what_does_not_divide_is_named(changes: dict[str, Any], ranks: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(synthetic_llada(tmp_path, **changes), Split(0, ranks))


@pytest.mark.parametrize("size", ["moe_intermediate_size", "intermediate_size"])
def test_widths_of_experts_that_do_not_divide_are_named(size: str, tmp_path: Path) -> None:
    name = "an expert" if size.startswith("moe") else "feed-forward"
    with pytest.raises(CheckpointError, match=f"does not divide the model's 27 columns of {name}"):
        load(synthetic_llada2(tmp_path, **{size: 27}), Split(0, 2))


def test_experts_that_are_too_narrow_for_products_are_refused(tmp_path: Path) -> None:
    said = "leaves a rank 6 columns of an expert, and products in float32 take multiples of 4; choose a smaller"
    with pytest.raises(CheckpointError, match=said):
        load(synthetic_llada2(tmp_path), Split(0, 4))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantization": "int8"}, "quantization is not for tensor_parallel 2; leave out one of the two"),
        ({"compile": True}, "compile is not for tensor_parallel 2"),
        ({"lora": ["a"]}, "lora is not for tensor_parallel 2"),
        ({"device": "mps"}, "tensor_parallel 2 is for device cpu, cuda or auto, and not for 'mps'"),
        ({"device": "cuda:1"}, "and not for 'cuda:1'"),
    ],
)
def test_what_is_not_done_over_several_ranks_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        LLM(tensor_parallel=2, **fields)


def test_a_number_of_ranks_is_needed() -> None:
    with pytest.raises(RequestError, match="tensor_parallel must be an integer of at least 1, not 0"):
        LLM(tensor_parallel=0)


def test_other_ranks_are_told_of_all_that_changes_keys_and_values() -> None:
    public = {name for name in vars(KeyValues) if not name.startswith("_")}
    assert public - PASSIVE == {name for name in vars(LedKeyValues) if not name.startswith("_")}


def test_a_split_network_keeps_its_architecture_apart_from_the_config(tmp_path: Path) -> None:
    a = load(synthetic_llada(tmp_path), Split()).network.architecture
    assert Split(1, 2).share(a) == replace(a, heads=2, kv_heads=1, ffn_size=40)


def test_python_answers_as_in_one_process_and_leaves_no_rank() -> None:
    llm = LLM(device="cpu", dtype="float32", tensor_parallel=2)
    assert len(followers(os.getpid())) == 1
    with pytest.raises(CheckpointError, match=r"torch\.distributed, which this process uses already"):
        LLM(device="cpu", tensor_parallel=2)
    (output,) = llm.chat([{"role": "user", "content": QUESTION}], progress=False)
    assert output.text == ANSWER
    del llm
    wait_for(lambda: not followers(os.getpid()), SOON)
