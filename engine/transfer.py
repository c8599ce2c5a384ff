"""Frozen dataclasses of tensors, moved between host and device in one piece; each tensor keeps its dtype."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from unmask.models.devices import upload

T = TypeVar("T")


def mapped(tree: T, change: Callable[[Tensor], Any]) -> T:
    """The same tree with `change(leaf)` in place of each tensor. Dataclasses, tuples and dicts are branches; numbers,
    text and None stay as they are."""
    if isinstance(tree, Tensor):
        return cast(T, change(tree))
    if hasattr(tree, "__dataclass_fields__"):
        return type(tree)(**{name: mapped(value, change) for name, value in vars(tree).items()})
    if isinstance(tree, tuple):
        return cast(T, tuple([mapped(value, change) for value in tree]))
    if isinstance(tree, dict):
        return cast(T, {name: mapped(value, change) for name, value in tree.items()})
    return tree


def leaves(tree: object) -> list[Tensor]:
    """The tensors of a tree, in order."""
    found: list[Tensor] = []
    mapped(tree, found.append)
    return found


def pack(tree: object) -> Tensor:
    """All tensors of a tree as one, (bytes,) uint8."""
    filled = [leaf for leaf in _aligned(leaves(tree)) if leaf.numel()]  # those without elements may have any stride
    return torch.cat([_flat(leaf).view(torch.uint8) for leaf in filled])


def unpack(packed: Tensor, like: T) -> T:
    """The tree that was packed, as views of `packed`. `like` is a tree of the same shapes and dtypes."""
    ordered = _aligned(leaves(like))
    pieces = packed.split([leaf.nbytes for leaf in ordered])
    views = {id(leaf): _view(piece, leaf) for leaf, piece in zip(ordered, pieces, strict=True)}
    return mapped(like, lambda leaf: views[id(leaf)])


def to_device(tree: T, device: torch.device) -> T:
    """A tree of the host on the device, by one transfer; the host does not wait. On a CPU it is the same tree."""
    return tree if device.type == "cpu" else unpack(upload(pack(tree), device), tree)


def to_host(tree: T) -> T:
    """A tree of the device on the host, by one transfer, for which the host waits."""
    return unpack(pack(tree).cpu(), tree)


def _flat(leaf: Tensor) -> Tensor:
    """In one row of stride 1, which that of a single element need not be; then it cannot be read as bytes."""
    whole = leaf.contiguous()
    return whole.as_strided((whole.numel(),), (1,))


def _view(piece: Tensor, like: Tensor) -> Tensor:
    values = piece.view(like.dtype)
    return values if like.ndim == 1 else values.view(like.shape)  # a view less for most


def _aligned(tensors: list[Tensor]) -> list[Tensor]:
    """The widest dtypes first: each then starts at a multiple of its size."""
    return sorted(tensors, key=lambda leaf: -leaf.itemsize)
