"""One network over several ranks, each a process with a device of its own: tensor parallelism (Megatron-LM, Shoeybi et
al., arXiv 1909.08053).

A rank has some heads of every layer and as many keys and values, a part of the width of every feed-forward and of every
expert, and some rows of the vocabulary. Norms and routers are whole everywhere. What attention and feed-forward give is
a part of a sum, so a layer makes two sums over the ranks; the embedding makes one. Logits are put side by side on rank
0, which alone reads them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unmask.models.architecture import Architecture
from unmask.models.errors import CheckpointError

Axis = Literal["rows", "columns", "whole"]
ROWS: Final = "rows"
COLUMNS: Final = "columns"
WHOLE: Final = "whole"
# How the tensors of a network are split, by the last part of their names that is not "weight" or "bias".
IN_ROWS = ("embed", "head", "q", "k", "v", "gate", "up", "gate_up")
IN_COLUMNS = ("o", "down")
UNSPLIT = ("norm", "attn_norm", "ffn_norm", "q_norm", "k_norm", "router")
DEVICES = ("cpu", "cuda")
ALIGNMENT = 16  # bytes, of the rows that grouped products of torch take


@dataclass(frozen=True)
class Region:
    """The part of a stored tensor that a rank keeps: of its rows or columns the part `index` of `count` equal ones."""

    axis: Axis
    index: int = 0
    count: int = 1

    def stored(self, kept: Sequence[int]) -> tuple[int, ...]:
        """The shape of what is stored where this is the shape of what is kept: (rows,) or (rows, columns)."""
        rows, *columns = kept
        if self.axis == COLUMNS:
            return rows, *columns[:-1], columns[-1] * self.count
        return (rows * self.count if self.axis == ROWS else rows), *columns

    def slices(self, kept: Sequence[int], start: int) -> tuple[slice, ...]:
        """Where what is kept lies in a stored tensor, if its region begins at row `start` of that."""
        rows, *columns = kept
        first = start + (self.index * rows if self.axis == ROWS else 0)
        if self.axis == COLUMNS:
            return slice(first, first + rows), slice(self.index * columns[-1], (self.index + 1) * columns[-1])
        return (slice(first, first + rows),)


@dataclass(frozen=True)
class Split:
    """Which part of a network this process has, and what the ranks do together.

    key_parts  into how many parts the heads of keys and values are split; ranks share one where there are fewer heads
    """

    rank: int = 0
    size: int = 1
    key_parts: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

    def of(self, a: Architecture) -> "Split":
        """The split of a network of this shape."""
        return replace(self, key_parts=min(self.size, a.kv_heads))

    def share(self, a: Architecture) -> Architecture:
        """The shape of what a rank has; `vocab_rows` are still those of the whole. Raises CheckpointError for what does
        not divide."""
        if self.alone:
            return a
        n, e = self.size, a.experts
        sizes = {"vocabulary rows": a.vocab_rows, "attention heads": a.heads}
        if e is None or e.first_layer > 0:
            sizes["columns of feed-forward"] = a.ffn_size
        if e is not None:
            sizes |= {"columns of an expert": e.ffn_size, "columns of shared experts": e.shared_size}
            e = replace(e, ffn_size=e.ffn_size // n, shared_size=e.shared_size // n)
        if n % a.kv_heads:  # else ranks share a head
            sizes["key/value heads"] = a.kv_heads
        for what, size in sizes.items():
            if size % n:
                raise CheckpointError(
                    f"tensor_parallel {n} does not divide the model's {size} {what}; choose a number that does"
                )
        heads, kv_heads = a.heads // n, max(1, a.kv_heads // n)
        return replace(a, heads=heads, kv_heads=kv_heads, ffn_size=a.ffn_size // n, experts=e)

    def require_aligned(self, a: Architecture, dtype: torch.dtype) -> None:
        """Raise CheckpointError if products with a rank's share of an expert do not take its width."""
        width = ALIGNMENT // dtype.itemsize
        if not self.alone and a.experts is not None and a.experts.ffn_size % width:
            raise CheckpointError(
                f"tensor_parallel {self.size} leaves a rank {a.experts.ffn_size} columns of an expert, and products in "
                f"{str(dtype).removeprefix('torch.')} take multiples of {width}; choose a smaller number"
            )

    def region(self, name: str) -> Region:
        """What a rank has of a tensor, by its name in the network."""
        leaf = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
        if self.alone or leaf in UNSPLIT:
            return Region(WHOLE)
        if leaf in ("k", "v"):
            return Region(ROWS, self.rank * self.key_parts // self.size, self.key_parts)
        if leaf not in IN_ROWS + IN_COLUMNS:
            raise NotImplementedError(f"nothing says how {name} is split")
        return Region(ROWS if leaf in IN_ROWS else COLUMNS, self.rank, self.size)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x, which it may overwrite."""
        if not self.alone and x.numel():
            dist.all_reduce(x)
        return x

    def least(self, value: int) -> int:
        """The least of all ranks' numbers."""
        if self.alone:
            return value
        dist.all_reduce(found := torch.tensor([value]), op=dist.ReduceOp.MIN)
        return int(found)

    def embedded(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        """The vectors (N, D) of tokens (N,), from each rank's rows of the table."""
        if self.alone:
            return table(tokens)
        row = tokens - self.rank * table.num_embeddings
        own = (row >= 0) & (row < table.num_embeddings)
        return self.summed(table(row.where(own, 0)).masked_fill(~own[:, None], 0))

    def joined(self, x: Tensor, dim: int) -> Tensor:
        """All ranks' x, of one shape, one after another along a dimension; on rank 0 only, elsewhere x as it is."""
        if self.alone:
            return x
        x = x.contiguous()
        parts = None if self.rank else [torch.empty_like(x) for _ in range(self.size)]
        dist.gather(x, parts, dst=0)
        return x if parts is None else torch.cat(parts, dim=dim)


ALONE = Split()


def require_splittable(size: int, device: str, quantization: str | None, compiled: bool | None, lora: bool) -> None:
    """Raise CheckpointError for what is not done over several ranks, and for a device that names one card."""
    if size == 1:
        return
    if device not in ("auto", *DEVICES):
        raise CheckpointError(f"tensor_parallel {size} is for device cpu, cuda or auto, and not for {device!r}")
    refused = {"quantization": quantization is not None, "compile": bool(compiled), "lora": lora}
    for field, given in refused.items():
        if given:
            raise CheckpointError(f"{field} is not for tensor_parallel {size}; leave out one of the two")
