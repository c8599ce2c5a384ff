"""Matrices in eight bits, weight only, by torchao: an int8 for each number and a float32 scale for each row.

A number is the nearest multiple of its row's scale, which is the largest magnitude of the row / 127.5. A product
multiplies by the int8 matrix, in the dtype of the other factor, and then scales. Activations are not rounded, so a
token does not depend on the others in its batch.
"""

import logging
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from unmask.models.errors import CheckpointError

QUANTIZATIONS = ("int8",)
SCALE_BYTES = 4
NOISY = ("torchao", "torch.utils._pytree")
NUMBERS_AT_A_TIME = 1 << 20  # torchao rounds in float32, so whole matrices would take several times their size

Pack = Callable[[Tensor], Tensor]


def choose_packing(quantization: str | None, dtype: torch.dtype) -> Pack | None:
    """What makes a quantised matrix (..., N, K) of one in a dtype; None where nothing is quantised.

    Raises CheckpointError for an unknown quantization, a dtype that it does not work in, and if torchao is missing.
    """
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        raise CheckpointError(f"quantization {quantization!r} is unknown; choose {', '.join(QUANTIZATIONS)} or none")
    if dtype == torch.float16:  # sums of products with numbers up to 127, not yet scaled
        raise CheckpointError("quantization int8 computes sums that are too large for float16; use --dtype bfloat16")
    try:
        _import_quietly("torchao.quantization")
    except ImportError as error:
        raise CheckpointError(f"quantization int8 needs torchao ({error}); pip install 'unmask[quant]'") from None
    return pack_int8


def _import_quietly(module: str) -> None:
    """Import it without its warnings, of kernels for CUDA that are not there and are not used."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        import_module(module)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def pack_int8(weight: Tensor) -> Tensor:
    """An Int8Tensor (..., N, K) of a matrix, or of several."""
    from torchao.quantization import Int8Tensor, PerRow  # type: ignore[import-untyped]

    width = weight.shape[-1]
    some = weight.flatten(0, -2).split(max(1, NUMBERS_AT_A_TIME // width))
    packed = [Int8Tensor.from_hp(rows, PerRow()) for rows in some]
    levels = torch.cat([rows.qdata for rows in packed]).view(weight.shape)
    scale = torch.cat([rows.scale for rows in packed]).view(*weight.shape[:-1], 1)
    whole: Tensor = Int8Tensor(levels, scale, [1] * (weight.dim() - 1) + [width], weight.dtype)
    return whole


def packed_bytes(weight: Tensor) -> int:
    """Bytes of a matrix, or of several, once quantised. Works on the meta device."""
    return weight.numel() + weight.shape[:-1].numel() * SCALE_BYTES


def levels_and_scale(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The int8 numbers (..., N, K) and scales (..., N, 1) of what was packed; a plain tensor itself, and None."""
    return getattr(weight, "qdata", weight), getattr(weight, "scale", None)


def precision(dtype: torch.dtype, quantization: str | None) -> str:
    """What a model computes in, in words."""
    name = str(dtype).removeprefix("torch.")
    return name if quantization is None else f"{name} with {quantization} weights"
