"""Matrices in eight or four bits, weight only, by torchao. Activations are not rounded, so a token does not depend on
the others in its batch.

int8  an int8 for each number and a float32 scale for each row. A number is the nearest multiple of its row's scale,
      which is the largest magnitude of the row / 127.5. A product multiplies by the int8 matrix, in the dtype of the
      other factor, and then scales
int4  four bits for each number, and for each GROUP of a row a scale and a zero point in the dtype: a number is
      scale (n - 8) + zero, n from 0 to 15, so that the group's smallest and largest are exact. Kernels of torch
      multiply: on a CPU, and on CUDA from compute capability 8.0 on, there in bfloat16 only
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from unmask.models.errors import CheckpointError

CPU = torch.device("cpu")
QUANTIZATIONS = ("int8", "int4")
SCALE_BYTES = 4  # of int8's
NOISY = ("torchao", "torch.utils._pytree")
NUMBERS_AT_A_TIME = 1 << 20  # torchao rounds in float32, so whole matrices would take several times their size
GROUP = 32  # columns that share a scale; torchao has 32, 64 and 128, and fewer are more exact
ROWS, ROWS_AT_A_TIME = 16, 64  # int4 packs rows in lots: a matrix has whole lots of the first, and parts of the second
CUDA_COLUMNS, CUDA_ROWS = 1024, 8  # to multiples of these torchao pads a matrix for CUDA


@dataclass(frozen=True)
class Pack:
    """Makes a quantised matrix of one in a dtype.

    joins  whether some rows of what it makes are a matrix, too; then several matrices may be one. Only such packs take
           several matrices (E, N, K) at once
    """

    pack: Callable[[Tensor], Tensor]
    joins: bool = True

    def __call__(self, weight: Tensor) -> Tensor:
        return self.pack(weight)


def choose_packing(
    quantization: str | None, dtype: torch.dtype, device: torch.device = CPU, experts: bool = False
) -> Pack | None:
    """What makes a quantised matrix of one in a dtype on a device; None where nothing is quantised.

    experts  whether the network has some

    Raises CheckpointError for an unknown quantization, for a dtype, device or network that it does not work in, and if
    torchao is missing.
    """
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        raise CheckpointError(f"quantization {quantization!r} is unknown; choose {', '.join(QUANTIZATIONS)} or none")
    if dtype == torch.float16:  # sums of products with numbers up to 127, not yet scaled
        raise CheckpointError(
            f"quantization {quantization} is not for float16, whose range its sums may leave; use --dtype bfloat16"
        )
    if quantization == "int4":
        _check_int4(dtype, device, experts)
    try:
        _import_quietly("torchao.quantization")
        if quantization == "int4":
            _import_quietly(INT4[device.type])
    except ImportError as error:
        raise CheckpointError(
            f"quantization {quantization} needs torchao ({error}); pip install 'unmask[quant]'"
        ) from None
    return Pack(pack_int8) if quantization == "int8" else Pack(pack_int4, joins=False)


# Where torchao 0.18 has its matrices in four bits, by kind of device.
INT4 = {
    "cpu": "torchao.prototype.quantization.int4.int4_opaque_tensor",
    "cuda": "torchao.quantization.quantize_.workflows.int4.int4_tile_packed_to_4d_tensor",
}


def has_int4(dtype: torch.dtype, device: torch.device, experts: bool) -> bool:
    """Whether there is int4 for a dtype, a device and a network with experts or without."""
    return device.type in INT4 and not experts and dtype in ((torch.bfloat16,) if device.type == "cuda" else WIDE)


WIDE = (torch.float32, torch.bfloat16)


def _check_int4(dtype: torch.dtype, device: torch.device, experts: bool) -> None:
    """Raise CheckpointError where torchao has no int4."""
    if experts:
        raise CheckpointError("quantization int4 is not for networks with experts, which torchao lacks; use int8")
    if device.type not in INT4:
        raise CheckpointError(f"quantization int4 is for CPUs and CUDA, and not for {device.type}; use int8 or none")
    if not has_int4(dtype, device, experts):
        raise CheckpointError("quantization int4 computes in bfloat16 on CUDA; use --dtype bfloat16")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise CheckpointError("quantization int4 needs a card of compute capability 8.0 or more; use int8")


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


def pack_int4(weight: Tensor) -> Tensor:
    """An Int4OpaqueTensor, on CUDA an Int4TilePackedTo4dTensor, of a matrix (N, K). Raises CheckpointError for a
    size that torchao does not take."""
    rows, columns = weight.shape
    if rows % ROWS or columns % GROUP:
        raise CheckpointError(
            f"quantization int4 is for matrices of whole lots of {ROWS} rows and {GROUP} columns, and the network has "
            f"one of {rows} x {columns}; use int8"
        )
    module = import_module(INT4[weight.device.type])
    kind = module.Int4OpaqueTensor if weight.device.type == "cpu" else module.Int4TilePackedTo4dTensor
    lots = max(1, NUMBERS_AT_A_TIME // (columns * ROWS_AT_A_TIME))
    packed = [kind.from_hp(part.contiguous(), [1, GROUP]) for part in weight.split(lots * ROWS_AT_A_TIME)]
    levels = torch.cat([part.qdata for part in packed])
    scale_and_zero = torch.cat([part.scale_and_zero for part in packed], dim=1)  # (K / GROUP, N, 2)
    whole: Tensor = kind(levels, scale_and_zero, [1, GROUP], weight.shape)
    return whole


def packed_bytes(weight: Tensor, quantization: str, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of a matrix, or of several, once quantised from a dtype on a device. Works on the meta device."""
    if quantization == "int8":
        return weight.numel() + weight.shape[:-1].numel() * SCALE_BYTES
    rows, columns = weight.shape[:-1].numel(), weight.shape[-1]
    if device.type == "cuda":
        rows, columns = -(-rows // CUDA_ROWS) * CUDA_ROWS, -(-columns // CUDA_COLUMNS) * CUDA_COLUMNS
    return rows * columns // 2 + rows * (columns // GROUP) * 2 * dtype.itemsize


def levels_and_scale(weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The int8 numbers (..., N, K) and scales (..., N, 1) of what was packed; a plain tensor itself, and None."""
    return getattr(weight, "qdata", weight), getattr(weight, "scale", None)


def precision(dtype: torch.dtype, quantization: str | None) -> str:
    """What a model computes in, in words."""
    name = str(dtype).removeprefix("torch.")
    return name if quantization is None else f"{name} with {quantization} weights"
