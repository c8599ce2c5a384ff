"""How the memory beside the weights is divided. It is measured when an engine is made."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from unmask.engine.canvas import Canvas
from unmask.engine.errors import NoMemoryError, RequestError
from unmask.engine.proposal import head_bytes
from unmask.engine.slots import columns_needed
from unmask.models.architecture import Architecture
from unmask.models.cache import KeyValues
from unmask.models.devices import available_bytes
from unmask.models.loading import Model
from unmask.models.memory import GIB, is_out_of_memory, pass_bytes
from unmask.models.packing import power_of_two


def cache_columns(
    a: Architecture, dtype: torch.dtype, free: int, max_rows: int, max_positions: int, memory_fraction: float
) -> int:
    """Columns of keys and values: enough for every row at its longest, or what the share of the free bytes allows."""
    enough = power_of_two(max_rows) * columns_needed(max_positions)
    return min(enough, int(memory_fraction * free) // KeyValues.bytes_per_column(a, dtype))


class Room:
    """What keys and values may take, and what a pass may.

    columns  of keys and values, see `cache_columns`
    passes   bytes that a pass may take: on CUDA what keys and values and the head leave, on a CPU all that is
             free, since there unwritten memory takes no space

    memory_fraction  share of the free memory that keys and values may take
    free             bytes that are free; by default what the device has
    """

    def __init__(self, model: Model, max_rows: int, memory_fraction: float, free: int | None = None):
        self._a, self._dtype = model.network.architecture, model.dtype
        free = available_bytes(model.device) if free is None else free
        column = KeyValues.bytes_per_column(self._a, model.dtype)
        self.columns = cache_columns(self._a, model.dtype, free, max_rows, model.max_positions, memory_fraction)
        spoken_for = self.columns * column + head_bytes(self._a.vocab_rows, max_rows * model.max_positions)
        self.passes = free if model.device.type == "cpu" else free - spoken_for

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether canvases of these lengths can be computed in one pass."""
        return pass_bytes(self._a, self._dtype, lengths) <= self.passes

    def check(self, length: int) -> None:
        """Raise RequestError if a canvas is too long even for a pass of its own."""
        if self.holds([length]):
            return
        needed = pass_bytes(self._a, self._dtype, [length]) / GIB
        raise RequestError(
            f"a pass over {length} tokens takes {needed:.1f} GiB of memory and {max(self.passes, 0) / GIB:.1f} are "
            "left for it; shorten the prompt or max_tokens, or serve with a smaller --memory-fraction",
            "max_tokens",
        )


@contextmanager
def memory_for(canvas: Canvas) -> Iterator[None]:
    """Turn an out-of-memory error into a NoMemoryError that names this request."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise NoMemoryError(canvas.request.id, len(canvas.ids)) from error
        raise
