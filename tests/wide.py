"""Networks in float64, in which two that compute the same are equal whatever the processor's rounding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

EQUAL = 1e-12  # absolute, of logits up to 10; measured: 3e-14


class Wide(TorchFunctionMode):
    """Computes in float64 what asks for float32, as norms and rotations do."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        function = Tensor.double if func is Tensor.float else func
        return function(*map(_wide, args), **{name: _wide(value) for name, value in (kwargs or {}).items()})


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
