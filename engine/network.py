"""What the engine asks of a network, whether this process has all of it or leads ranks that have parts."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from unmask.engine.proposal import Head
from unmask.engine.ranks.group import Ranks
from unmask.models.cache import KeyValues
from unmask.models.devices import available_bytes
from unmask.models.packing import NetworkInputs
from unmask.models.transformer import MaskedTransformer


class Network:
    """The one caller of a network. Whatever it does, all ranks do: rank 0 tells the others, which have one each.

    ranks  those that this process leads; None if there is one process, or another leads
    """

    def __init__(self, network: MaskedTransformer, ranks: Ranks | None = None):
        self.network = network
        self._ranks = ranks
        self._table: Tensor | None = None

    def hidden(self, inputs: NetworkInputs, cache: KeyValues | None = None) -> Tensor:
        """Hidden states of the wanted columns (M, D)."""
        with self._together("hidden", inputs, None if cache is None else cache.start):
            return self.network(inputs.batch(), cache)

    @property
    def lost(self) -> str | None:
        """Why nothing can be computed any more, see `Ranks.lost`; None if all is well."""
        return None if self._ranks is None else self._ranks.lost

    @property
    def head(self) -> Head:
        """From hidden states (M, D) to logits (M, V)."""
        return self.network.head if self._ranks is None else self.logits

    def logits(self, hidden: Tensor) -> Tensor:
        """What `head` gives; on a rank that does not lead, its part (M, V / ranks)."""
        with self._together("logits", hidden):
            return self.network.split.joined(self.network.head(hidden), dim=-1)

    @property
    def table(self) -> Tensor:
        """The embeddings (V, D). Parts are put together when they are first asked for, and kept."""
        if self._ranks is None:
            return self.network.embed.weight
        if self._table is None:
            self._table = self.joined_table()
        return self._table

    def joined_table(self) -> Tensor:
        """What `table` gives; on a rank that does not lead, its rows."""
        with self._together("joined_table"):
            return self.network.split.joined(self.network.embed.weight, dim=0)

    def free(self, device: torch.device) -> int | None:
        """Bytes that each rank's device has free; ranks on a CPU share its memory. None of a network that is whole."""
        split = self.network.split
        if split.alone:
            return None
        with self._together("free"):
            return split.least(available_bytes(device)) // (split.size if device.type == "cpu" else 1)

    def key_values(self, columns: int, device: torch.device, dtype: torch.dtype) -> KeyValues:
        """Memory for keys and values, on every rank for its own heads."""
        if self._ranks is None:
            return KeyValues(self.network.architecture, columns, device, dtype)
        with self._ranks.together("make_cache", columns):
            return LedKeyValues(self._ranks, self.network, columns, device, dtype)

    def _together(self, what: str, *how: object) -> AbstractContextManager[None]:
        return nullcontext() if self._ranks is None else self._ranks.together(what, *how)


class LedKeyValues(KeyValues):
    """Keys and values of rank 0: the other ranks change theirs alike. A pass says itself which slots it uses."""

    def __init__(
        self, ranks: Ranks, network: MaskedTransformer, columns: int, device: torch.device, dtype: torch.dtype
    ):
        super().__init__(network.architecture, columns, device, dtype)
        self._ranks = ranks

    def allocate(self) -> None:
        """See KeyValues."""
        if not self._keys:
            with self._ranks.together("cache", "allocate"):
                super().allocate()

    def resize(self, capacity: int, used: int) -> None:
        """See KeyValues."""
        with self._ranks.together("cache", "resize", capacity, used):
            super().resize(capacity, used)

    def move(self, source: int, target: int) -> None:
        """See KeyValues."""
        with self._ranks.together("cache", "move", source, target):
            super().move(source, target)

    def copy(self, places: Tensor) -> None:
        """See KeyValues."""
        with self._ranks.together("copy", places.tolist()):
            super().copy(places)

    def clear(self, start: int, stop: int) -> None:
        """See KeyValues."""
        with self._ranks.together("cache", "clear", start, stop):
            super().clear(start, stop)
