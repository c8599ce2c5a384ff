"""Keys and values of earlier passes, after RoPE, in memory that is allocated once, when it is first needed."""

from copy import copy

import torch
from torch import Tensor

from unmask.models.architecture import Architecture
from unmask.models.devices import upload

COPIED = 4096  # columns at a time, so that a copy takes little memory


class KeyValues:
    """One slot per row that keeps keys and values. All slots have one capacity, which may change as long as all fit.

    Positions never move, so keys are kept after RoPE, column c of slot s at s * capacity + c.

    columns   of the memory
    capacity  columns per slot
    """

    def __init__(self, a: Architecture, columns: int, device: torch.device, dtype: torch.dtype):
        self.columns = columns
        self.capacity = columns
        self.start = 0  # columns of the memory before the first slot, see `from_slot`
        self._shape, self._layers = (columns, a.kv_heads, a.head_dim), a.layers
        self._device, self._dtype = device, dtype
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def allocate(self) -> None:
        """Allocate the memory. Called before the first row takes a slot."""
        if not self._keys:
            with torch.inference_mode(mode=False):  # slots also move outside of inference mode
                keys, values = self._store(), self._store()
            self._keys, self._values = keys, values

    def _store(self) -> list[Tensor]:
        # One tensor per layer: if all were one tensor, compiled code would copy it to write to a part. Zeros: a masked
        # key still adds zero times its value, and unwritten memory may hold NaN.
        return [torch.zeros(self._shape, device=self._device, dtype=self._dtype) for _ in range(self._layers)]

    @staticmethod
    def bytes_per_column(a: Architecture, dtype: torch.dtype) -> int:
        """Bytes that one position of one row takes."""
        return 2 * a.layers * a.kv_heads * a.head_dim * dtype.itemsize

    def slots(self, capacity: int) -> int:
        """How many slots of a capacity fit."""
        return self.columns // capacity

    def resize(self, capacity: int, used: int) -> None:
        """Change the capacity of every slot; the first `used` keep what they hold, cut if need be."""
        kept = min(capacity, self.capacity)
        for layer in (*self._keys, *self._values):
            held = self._slots(layer)[:used, :kept].clone()  # old and new slots overlap
            layer[: self.slots(capacity) * capacity].unflatten(0, (-1, capacity))[:used, :kept] = held
        self.capacity = capacity

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        start, to = source * self.capacity, target * self.capacity
        for layer in (*self._keys, *self._values):
            layer[to : to + self.capacity] = layer[start : start + self.capacity]

    def from_slot(self, slot: int) -> "KeyValues":
        """The same memory without the slots before this one."""
        if slot == 0:
            return self
        rest, start = copy(self), slot * self.capacity
        rest.start, rest.columns = start, self.columns - start
        rest._keys, rest._values = ([layer[start:] for layer in store] for store in (self._keys, self._values))
        return rest

    def copy(self, places: Tensor) -> None:
        """Copy columns of the memory, places (2, Z) long on the host: those in row 0 to those in row 1."""
        for source, target in (part.unbind() for part in upload(places, self._device).split(COPIED, dim=1)):
            for layer in (*self._keys, *self._values):
                layer[target] = layer[source]

    def clear(self, start: int, stop: int) -> None:
        """Fill columns of the memory with zeros."""
        for layer in (*self._keys, *self._values):
            layer[start:stop] = 0

    def write(self, layer: int, at: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keep keys and values (Z, kv_heads, head_dim) at flat places (Z,)."""
        self._keys[layer][at] = keys
        self._values[layer][at] = values

    def read(self, layer: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Views (rows, columns, kv_heads, head_dim) of the first columns of the first slots."""
        return self._slots(self._keys[layer])[:rows, :columns], self._slots(self._values[layer])[:rows, :columns]

    def _slots(self, layer: Tensor) -> Tensor:  # (columns, ...) -> (slots, capacity, ...)
        return layer[: self.slots(self.capacity) * self.capacity].unflatten(0, (-1, self.capacity))
