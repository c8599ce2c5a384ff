"""The rates of a machine, the cost of a step, and the share of the rates that steps reach (roofline model:
Williams, Waterman and Patterson, Communications of the ACM 52(4), 2009).

The costs are those of a pass that computes nothing twice: elementwise work is taken to be fused with the matrix
products around it and is not counted, and the last layer answers only for the positions that are wanted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unmask.models.architecture import Architecture

MATRIX = 2048  # rows and columns of the matrices that are multiplied
COPY_BYTES = 1 << 28  # far beyond any cache
TRIES = 5


@dataclass(frozen=True)
class Machine:
    """Measured rates: multiplications and additions per second of a matrix product, bytes per second of a copy."""

    operations_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Work:
    """What the network did in a run.

    steps      calls of the network, each for a whole batch
    passes     steps, counted once for every row of the batch
    positions  tokens computed, all rows and steps together
    keys       that a token attends to, on average
    wanted     positions for which logits were computed, all rows and steps together
    """

    steps: int
    passes: int
    positions: int
    keys: float
    wanted: int


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The best of several tries of a large matrix product and of a large copy."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device).to(dtype) for _ in range(2))
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _least_seconds(lambda: torch.mm(a, b), device)
    copy = _least_seconds(lambda: target.copy_(source), device)
    return Machine(2 * MATRIX**3 / product, 2 * COPY_BYTES / copy)  # a copy reads and writes


def operations(a: Architecture, work: Work) -> float:
    """Multiplications and additions of matrix products.

    Each layer makes keys and values of every position. Queries, attention and feed-forward are computed for every
    position in all layers but the last, and there for the wanted ones alone; so is the head.
    """
    heads, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    storing = 2 * a.hidden_size * 2 * kv
    asking = 2 * (2 * a.hidden_size * heads + 3 * a.hidden_size * a.ffn_size) + 4 * heads * work.keys
    askers = (a.layers - 1) * work.positions + work.wanted
    return a.layers * work.positions * storing + askers * asking + work.wanted * 2 * a.hidden_size * a.vocab_rows


def bytes_moved(a: Architecture, work: Work, itemsize: int, quantised: bool = False) -> float:
    """Bytes between memory and processor if each matrix product reads its inputs once and writes its output once.

    Weights are read once a step, the keys and values of a row once a layer and pass.

    itemsize   bytes of one number, in weights and everywhere else
    quantised  but in the matrices of the layers one byte
    """
    heads, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    layer = a.hidden_size * (2 * heads + 2 * kv + 3 * a.ffn_size)
    matrices = work.steps * a.layers * layer * (1 if quantised else itemsize)
    attended = work.passes * a.layers * 2 * kv * work.keys
    askers = (a.layers - 1) * work.positions + work.wanted
    # In and out of: queries (the input is that of keys and values), output, gate and up, down.
    hidden = a.layers * work.positions * (a.hidden_size + 2 * kv) + askers * (
        3 * a.hidden_size + 2 * heads + 3 * a.ffn_size
    )
    head = work.steps * a.hidden_size * a.vocab_rows + work.wanted * (a.hidden_size + a.vocab_rows)
    return matrices + itemsize * (attended + hidden + head)


def reached(
    a: Architecture, work: Work, itemsize: int, seconds: float, machine: Machine, quantised: bool = False
) -> tuple[float, float] | None:
    """The shares of the machine's matrix rate and memory bandwidth that this work reached in `seconds`.

    None for a mixture of experts, whose cost depends on the experts that tokens choose.
    """
    if a.experts is not None:
        return None
    of_rate = operations(a, work) / seconds / machine.operations_per_second
    return of_rate, bytes_moved(a, work, itemsize, quantised) / seconds / machine.bytes_per_second


def _least_seconds(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(TRIES + 1):  # the first try pays for what is set up
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
