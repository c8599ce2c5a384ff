"""The side of the ranks beside rank 0: `python -m unmask.engine.ranks.follow RANK SIZE KIND FILE`, started by rank 0.

KIND is that of the device, FILE where the ranks meet. The process ends with its standard input, whatever becomes of
rank 0, and its last words go to its standard output.
"""

import os
import shutil
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from unmask.engine.network import Network
from unmask.engine.ranks.channel import Channel, meeting
from unmask.models.cache import KeyValues
from unmask.models.loading import Model, load_model
from unmask.models.split import Split


class Follower:
    """What a rank can be told to do. Rank 0 does the same at the same time."""

    def __init__(self, split: Split, channel: Channel):
        self._split = split
        self._channel = channel
        self._model: Model
        self._network: Network
        self._cache: KeyValues

    def load(self, source: str, revision: str | None, dtype: str) -> None:
        """Load the rank's part of a model."""
        self._model = load_model(source, revision, str(self._channel.device), dtype, split=self._split)
        self._network = Network(self._model.network)

    def meet(self) -> None:
        """Wait for all ranks."""
        self._channel.meet()

    def make_cache(self, columns: int) -> None:
        """Make room for keys and values."""
        self._cache = self._network.key_values(columns, self._model.device, self._model.dtype)

    def cache(self, method: str, *how: int) -> None:
        """Change what is kept, see `KeyValues`."""
        getattr(self._cache, method)(*how)

    def copy(self, places: list[list[int]]) -> None:
        """Copy columns of what is kept, see `KeyValues.copy`."""
        self._cache.copy(torch.tensor(places))

    def hidden(self, inputs: Any, start: int | None) -> None:
        """Compute a pass; start is the first column of the cache that it uses."""
        cache = None if start is None else self._cache.from_slot(start and start // self._cache.capacity)
        self._network.hidden(inputs, cache)

    def logits(self, hidden: torch.Tensor) -> None:
        """Compute the rank's part of the logits."""
        self._network.logits(hidden)

    def joined_table(self) -> None:
        """Give the rank's part of the embeddings."""
        self._network.joined_table()

    def free(self) -> None:
        """Say how much memory is free."""
        self._network.free(self._model.device)


def follow(split: Split, channel: Channel) -> None:
    """Do what rank 0 tells until it says that this is the end. Raises what fails."""
    follower = Follower(split, channel)
    what, how = channel.receive()
    while what != "end":
        with torch.inference_mode(what != "load"):
            getattr(follower, what)(*how)
            what, how = channel.receive()
    dist.destroy_process_group()


def end_with_input(folder: Path) -> None:
    """End the process when its standard input ends, which rank 0 holds: also if that was killed, and left the folder
    where they have met."""
    while sys.stdin.buffer.read(1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def stay() -> None:
    """Ignore the signals that ask all processes to end: rank 0 still answers what it has begun, and then says so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Follow; returns the exit code."""
    rank, size, kind, file = sys.argv[1:]
    stay()
    threading.Thread(target=end_with_input, args=[Path(file).parent], daemon=True).start()
    try:
        store = meeting(Path(file), int(size))
        store.set(rank, "here")
        channel = Channel.join(int(rank), int(size), kind, int(rank), store)
        follow(Split(int(rank), int(size)), channel)
    except Exception as error:
        shutil.rmtree(Path(file).parent, ignore_errors=True)
        with suppress(OSError):  # nobody may be there to read it
            print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())  # the thread still reads
