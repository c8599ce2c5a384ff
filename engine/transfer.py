"""Host to device in one piece, without waiting for the device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[np.int64]]
Signature = tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each array, in order


def upload(values: Tensor, device: torch.device) -> Tensor:
    """These values on the device; by way of pinned memory on CUDA, so that the host need not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def signature(arrays: Arrays) -> Signature:
    """What `split` needs to know of arrays that were joined."""
    return tuple((name, array.shape) for name, array in arrays.items())


def join(arrays: Arrays) -> Tensor:
    """All arrays one after another, (total,) long."""
    return torch.from_numpy(np.concatenate([array.ravel() for array in arrays.values()]))


def split(flat: Tensor, signature: Signature) -> dict[str, Tensor]:
    """Views of what was joined."""
    sizes = [int(np.prod(shape)) for _, shape in signature]
    return {name: piece.view(shape) for (name, shape), piece in zip(signature, flat.split(sizes), strict=True)}


def as_tensors(arrays: Arrays, device: torch.device) -> dict[str, Tensor]:
    """The arrays on the device."""
    if device.type == "cpu":
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return split(upload(join(arrays), device), signature(arrays))


def floats(values: Sequence[float]) -> NDArray[np.int64]:
    """Numbers as the bits of float64, to travel among integers."""
    return np.array(values, dtype=np.float64).view(np.int64)


def as_float(bits: Tensor) -> Tensor:
    """The numbers that `floats` packed, as float32."""
    return bits.view(torch.float64).float()
