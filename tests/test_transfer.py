"""Trees of tensors, packed and unpacked: every value, shape and dtype is as it was, and an engine that packs decodes
as one that does not."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.outcomes import outcomes
from tests.synthetic import synthetic_llada
from unmask.engine import Request
from unmask.engine.caching import parse_cache
from unmask.engine.transfer import T, leaves, mapped, pack, to_device, to_host, unpack
from unmask.models.loading import load_model
from unmask.schedulers import parse_scheduler


@dataclass(frozen=True)
class Branch:
    ids: Tensor
    options: dict[str, Tensor]
    rows: int


@dataclass(frozen=True)
class Tree:
    mask: Tensor
    branches: tuple[Branch, ...]
    weights: Tensor | None
    nothing: None = None


def tree() -> Tree:
    """Odd counts of bytes before wider dtypes, no dimension, no element, and numbers that only their dtype can hold."""
    wide = torch.tensor([[1 << 62, -1, 3]])
    options = {
        "floor": torch.tensor([0.1, float("nan")]),
        "n": torch.tensor(-1),
        "tiny": torch.tensor([1e-300]).double(),
    }
    return Tree(
        mask=torch.tensor([[True, False, True]] * 3),
        branches=(Branch(wide, options, 3), Branch(torch.zeros(0, 4, dtype=torch.int64), {}, 0)),
        weights=torch.tensor([1.5, -2.0]).bfloat16(),
    )


def test_what_is_unpacked_is_what_was_packed() -> None:
    packed = pack(tree())
    assert (packed.dtype, packed.ndim) == (torch.uint8, 1)
    assert len(packed) == sum(leaf.nbytes for leaf in leaves(tree()))
    found = unpack(packed, tree())
    torch.testing.assert_close(leaves(found), leaves(tree()), rtol=0, atol=0, equal_nan=True)  # and dtypes, and shapes
    assert (found.branches[0].rows, found.nothing, list(found.branches[0].options)) == (3, None, ["floor", "n", "tiny"])
    assert {leaf.untyped_storage().data_ptr() for leaf in leaves(found)} == {packed.untyped_storage().data_ptr()}


def test_what_does_not_lie_in_one_piece_is_packed_too() -> None:
    columns = torch.arange(6).view(2, 3).T.unbind()
    assert [column.tolist() for column in leaves(to_host(columns))] == [[0, 3], [1, 4], [2, 5]]


def test_one_element_of_a_wider_table_is_packed_too() -> None:
    """As where one row alone draws: its stride is that of the table, though it lies in one piece."""
    one = torch.tensor([[1.5, 2.5, 3.5]])[:, 1]
    assert one.stride() == (3,)
    assert to_host(one).tolist() == [2.5]


def test_a_tree_of_shapes_is_hashable() -> None:
    """A tree without dicts, as a captured pass is known by."""
    branch = tree().branches[1]
    shapes: object = mapped((branch.ids, branch.rows), lambda leaf: leaf.shape)
    assert {shapes} == {(torch.Size((0, 4)), 0)}


def test_an_engine_that_packs_decodes_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32")
    names, caches = ("threshold", "random", "klass", "topk"), ("none", "prefix", "dual")
    requests = [
        Request(
            id=str(i),
            prompt=tuple(range(3, 5 + i)),
            max_tokens=4 + i,
            block_length=4,
            scheduler=parse_scheduler(names[i % 4]),
            temperature=(0.0, 0.7)[i % 2],
            top_p=0.9,
            seed=i,
            cache=parse_cache(caches[i % 3]),
            top_logprobs=i % 3,
        )
        for i in range(6)
    ]
    plain = outcomes(model, requests)
    assert to_device(x := tree(), torch.device("cpu")) is x  # on a CPU nothing is packed on its way in

    packed: list[int] = []

    def packing(values: T, device: torch.device) -> T:
        packed.append(len(leaves(values)))
        return unpack(pack(values), values)

    monkeypatch.setattr("unmask.engine.engine.to_device", packing)
    assert outcomes(model, requests) == plain
    assert packed
