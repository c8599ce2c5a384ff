"""Does a network fit? Asked before any weight is read."""

import os
from itertools import chain
from pathlib import Path

import psutil
import torch

from models.errors import CheckpointError
from models.quantization import packed_bytes, precision
from models.transformer import MaskedTransformer

GIB = 1 << 30
KERNEL_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")  # of torch, and of oneDNN beneath it
KERNELS = "64"
CGROUP = Path("/sys/fs/cgroup")


def weight_bytes(network: MaskedTransformer, dtype: torch.dtype, quantization: str | None = None) -> int:
    """Bytes that the weights take in a dtype, the matrices quantised or not; a tied head counts once.

    For a network as it is built, also on the meta device.
    """
    buffers = sum(buffer.nbytes for buffer in network.buffers())  # they keep their own dtype
    plain = sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize + buffers
    if quantization is None:
        return plain
    matrices = chain.from_iterable(network.matrices())
    return plain - sum(matrix.numel() * dtype.itemsize - packed_bytes(matrix) for matrix in matrices)


def loading_bytes(network: MaskedTransformer, dtype: torch.dtype, quantization: str | None = None) -> int:
    """Bytes that loading takes: the weights', and where they are quantised, one block's before it is."""
    weights = weight_bytes(network, dtype, quantization)
    largest = max(sum(matrix.numel() for matrix in block) for block in network.matrices())
    return weights if quantization is None else weights + largest * dtype.itemsize


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; for the CPU, within the limit of the container too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, container_bytes(CGROUP))


def container_bytes(cgroup: Path) -> int:
    """What a control group (version 2) may still take; the file cache does not count, since it gives way."""
    unlimited = psutil.virtual_memory().total
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except OSError:
        return unlimited
    return unlimited if limit == "max" else int(limit) - int(statistics["anon"])


def bound_kernel_caches() -> None:
    """Have few kernels kept of those that a CPU makes for products in bfloat16, one for each shape.

    The caches are made at the first product. By default each holds 1024 kernels of half a megabyte, and a server meets
    more shapes than that. A variable that is set already stays as it is.
    """
    for variable in KERNEL_CACHES:
        os.environ.setdefault(variable, KERNELS)


def require_memory(
    network: MaskedTransformer, device: torch.device, dtype: torch.dtype, quantization: str | None = None
) -> None:
    """Raise CheckpointError if the weights do not fit."""
    needed, available = loading_bytes(network, dtype, quantization), available_bytes(device)
    if needed <= available:
        return
    narrower = ("" if dtype.itemsize == 2 else "--dtype bfloat16, ") + ("" if quantization else "--quantization int8, ")
    raise CheckpointError(
        f"the weights need {needed / GIB:.1f} GiB in {precision(dtype, quantization)} and {device.type} has "
        f"{available / GIB:.1f} GiB free; use {narrower}another device or a smaller model"
    )
