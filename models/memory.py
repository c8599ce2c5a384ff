"""Does a network fit? Asked before any weight is read."""

from pathlib import Path

import psutil
import torch

from models.errors import CheckpointError
from models.transformer import MaskedTransformer

GIB = 1 << 30
CGROUP = Path("/sys/fs/cgroup")


def weight_bytes(network: MaskedTransformer, dtype: torch.dtype) -> int:
    """Bytes that the weights take in a dtype; a tied head counts once. Works on the meta device."""
    buffers = sum(buffer.nbytes for buffer in network.buffers())  # they keep their own dtype
    return sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize + buffers


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


def require_memory(network: MaskedTransformer, device: torch.device, dtype: torch.dtype) -> None:
    """Raise CheckpointError if the weights do not fit."""
    needed, available = weight_bytes(network, dtype), available_bytes(device)
    if needed <= available:
        return
    narrower = "" if dtype.itemsize == 2 else "--dtype bfloat16, "
    raise CheckpointError(
        f"the weights need {needed / GIB:.1f} GiB in {str(dtype).removeprefix('torch.')} and {device.type} has "
        f"{available / GIB:.1f} GiB free; use {narrower}another device or a smaller model"
    )
