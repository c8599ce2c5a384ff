"""How much memory a network and a pass take, and how much is available."""

import os
from collections.abc import Sequence
from itertools import chain

import torch

from unmask.models.architecture import Architecture, BlockExperts
from unmask.models.devices import available_bytes
from unmask.models.errors import CheckpointError
from unmask.models.quantization import has_int4, packed_bytes, precision
from unmask.models.transformer import MaskedTransformer

GIB = 1 << 30
KERNEL_CACHES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")  # of torch, and of oneDNN beneath it
KERNELS = "64"
SHORT = 1024  # tokens of a canvas that a model must have room for, or it is not loaded
INDEX_BYTES = 256  # of a token: its positions and places, and its angles


CPU = torch.device("cpu")


def weight_bytes(
    network: MaskedTransformer, dtype: torch.dtype, quantization: str | None = None, device: torch.device = CPU
) -> int:
    """Bytes that the weights take in a dtype on a device, the matrices quantised or not; a tied head counts once.

    For a network as it is built, also on the meta device.
    """
    buffers = sum(buffer.nbytes for buffer in network.buffers())  # they keep their own dtype
    plain = sum(parameter.numel() for parameter in network.parameters()) * dtype.itemsize + buffers
    if quantization is None:
        return plain
    matrices = chain.from_iterable(network.matrices())
    saved = (m.numel() * dtype.itemsize - packed_bytes(m, quantization, dtype, device) for m in matrices)
    return plain - sum(saved)


def loading_bytes(
    network: MaskedTransformer, dtype: torch.dtype, quantization: str | None = None, device: torch.device = CPU
) -> int:
    """Bytes that loading takes: the weights', and one block's while its matrices are joined or quantised."""
    largest = max(sum(matrix.numel() for matrix in block) for block in network.matrices())
    return weight_bytes(network, dtype, quantization, device) + largest * dtype.itemsize


def pass_bytes(a: Architecture, dtype: torch.dtype, lengths: Sequence[int]) -> int:
    """Bytes that a pass over whole canvases of these lengths takes beside weights, keys and values, and logits.

    The larger of what feed-forward and attention hold at once, counted by the tensors that are alive in
    `models.transformer` when it is not compiled. Attention pads all rows to the longest canvas. Memory
    that a kernel of the device takes for itself is not counted.
    """
    tokens, places = sum(lengths), len(lengths) * max(lengths)
    q, kv, size = a.heads * a.head_dim, a.kv_heads * a.head_dim, dtype.itemsize
    feed_forward = tokens * (size * 4 * a.hidden_size + _feed_forward_bytes(a, size))
    masks = places * max(lengths) * (1 + size) if a.block_size is not None else 0
    projected = size * (3 * a.hidden_size + 3 * q + 3 * kv) + 4 * 4 * q  # the last is for norms and rotation in float32
    attention = tokens * projected + places * size * (2 * q + 2 * kv) + masks
    return max(feed_forward, attention) + tokens * INDEX_BYTES


def _feed_forward_bytes(a: Architecture, size: int) -> int:
    """What gate, up and their product take for one token; of experts, copies of what goes in and comes out, too."""
    dense = size * 4 * a.ffn_size
    if a.experts is None:
        return dense
    e = a.experts
    scores = 4 * e.count * (7 if isinstance(e.groups, BlockExperts) else 4)
    routed = e.chosen * (size * (4 * e.ffn_size + 4 * a.hidden_size) + 4 * 2 * a.hidden_size) + scores
    return max(dense, routed + size * 4 * e.shared_size)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is that a device had no memory left."""
    if error is None:
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return is_out_of_memory(error.__cause__)


def bound_kernel_caches() -> None:
    """Limit the caches of the kernels that a CPU makes for products in bfloat16, one per shape.

    The caches are made at the first product. By default each holds 1024 kernels of half a megabyte, and a server meets
    more shapes than that. A variable that is set already stays as it is.
    """
    for variable in KERNEL_CACHES:
        os.environ.setdefault(variable, KERNELS)


def needed_bytes(
    network: MaskedTransformer, dtype: torch.dtype, quantization: str | None = None, device: torch.device = CPU
) -> int:
    """The least memory to load a model: for loading, and for a short pass."""
    a = network.architecture
    beside = pass_bytes(a, dtype, [min(SHORT, a.max_positions)])
    return loading_bytes(network, dtype, quantization, device) + beside


def require_memory(
    network: MaskedTransformer,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str | None = None,
    beside: int = 0,
) -> None:
    """Raise CheckpointError if the weights do not fit, with room for a block while it is read, for a short pass, and
    for so many bytes of adapters."""
    needed, available = needed_bytes(network, dtype, quantization, device) + beside, available_bytes(device)
    if needed <= available:
        return
    narrower = ("" if dtype.itemsize == 2 else "--dtype bfloat16, ") + _narrower(network, dtype, quantization, device)
    raise CheckpointError(
        f"the weights and a first pass need {needed / GIB:.1f} GiB in {precision(dtype, quantization)} and "
        f"{device.type} has {available / GIB:.1f} GiB free; use {narrower}another device or a smaller model"
    )


def _narrower(network: MaskedTransformer, dtype: torch.dtype, quantization: str | None, device: torch.device) -> str:
    """The quantizations that would take less."""
    less = ["int8"] if quantization is None else []
    if quantization != "int4" and has_int4(dtype, device, network.architecture.experts is not None):
        less.append("int4")
    return f"--quantization {' or '.join(less)}, " if less else ""
