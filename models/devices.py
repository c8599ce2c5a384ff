"""Where a model runs: a device by its name, whether torch finds it, and what memory it has."""

import re
from pathlib import Path

import psutil
import torch
from torch import Tensor

from unmask.models.errors import CheckpointError

CGROUP = Path("/sys/fs/cgroup")
NAME = re.compile(r"auto|cpu|mps|(?:cuda|xpu)(?::\d+)?")
ALLOWED = "auto, cpu, cuda, cuda:N, xpu, xpu:N or mps"


def choose_device(name: str) -> torch.device:
    """The torch device for a name; auto is CUDA if there is one, else the CPU. Raises CheckpointError if torch does not
    find it.

    mps is the GPU of a Mac and xpu one of Intel's: both by emulation only, see docs/deploy.md.
    """
    if not NAME.fullmatch(name):
        raise CheckpointError(f"device {name!r} is unknown; choose {ALLOWED}")
    if name in ("auto", "cpu"):
        return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu")
    device, count = torch.device(name), _count(name.partition(":")[0])
    if not count:
        raise CheckpointError(
            f"device {name!r} was asked for, but torch finds no {device.type.upper()} device; choose cpu or auto"
        )
    if (device.index or 0) >= count:
        raise CheckpointError(f"device {name!r} was asked for, but torch finds {count}, numbered from 0; name another")
    return device


def _count(kind: str) -> int:
    """How many devices of a kind torch finds."""
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return torch.cuda.device_count() if kind == "cuda" else torch.xpu.device_count()


def make_current(device: torch.device) -> None:
    """Make a card the one that CUDA uses in this thread where nobody names one, so that the first is left alone."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; for the CPU, within the limit of the container too."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "xpu":
        return torch.xpu.mem_get_info(device)[0]
    host = min(psutil.virtual_memory().available, container_bytes(CGROUP))
    if device.type == "mps":  # it shares the memory of the host
        return min(host, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return host


def container_bytes(cgroup: Path) -> int:
    """What a control group (version 2) may still take; the file cache does not count, since it gives way."""
    unlimited = psutil.virtual_memory().total
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except OSError:
        return unlimited
    return unlimited if limit == "max" else int(limit) - int(statistics["anon"])


def upload(values: Tensor, device: torch.device) -> Tensor:
    """These values on the device; by way of pinned memory on CUDA, so that the host need not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
