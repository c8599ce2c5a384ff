"""Host to device without waiting for the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[object] | Tensor, device: torch.device) -> Tensor:
    """These values as a tensor on the device; by way of pinned memory on CUDA, so that the host need not wait."""
    host = values if isinstance(values, Tensor) else torch.tensor(values)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
