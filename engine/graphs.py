"""Passes that are captured as graphs and replayed without the host. Their inputs are kept at fixed places.

Only the network is captured: it makes nearly all launches of a step. While the device executes them, the host launches
the statistics and calls the schedulers, which run outside of the graph and may keep any state.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from unmask.engine.recording import Record, Replay
from unmask.engine.transfer import leaves, mapped

log = logging.getLogger(__name__)

GRAPH_TOKENS = 1024  # of a pass; in larger ones the device computes for longer than the host takes to launch
RUNS_BEFORE_CAPTURE = 2  # the first compiles and allocates; shapes that do not recur are not worth a capture
MAX_GRAPHS = 128
MAX_SEEN = 1024  # shapes whose runs are counted
MAX_FAILURES = 3  # failed captures after which none is tried any more: then the shapes are not the cause

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class _Captured:
    inputs: list[Tensor]
    output: Tensor
    replay: Replay


class Graphs:
    """Runs a pass, and from its third run with equal shapes on replays what was recorded.

    If a capture fails, it is not tried again, and such passes run without a graph.
    """

    def __init__(self, record: Record):
        self._record = record
        self._runs: _Recent[int] = _Recent(MAX_SEEN)
        self._captured: _Recent[_Captured] = _Recent(MAX_GRAPHS)
        self._failures = 0

    def __len__(self) -> int:
        """How many graphs there are."""
        return len(self._captured)

    def run(self, key: Hashable, inputs: T, forward: Callable[[T], Tensor]) -> Tensor:
        """forward(inputs), of a tree of tensors. Passes that are equal in key, shapes, and all in the tree that is no
        tensor, must run the same kernels.

        The tensor that comes back is overwritten by the next replay of such a pass.
        """
        key = (key, mapped(inputs, lambda leaf: leaf.shape))
        found = self._captured.get(key)
        if found is not None:
            torch._foreach_copy_(found.inputs, leaves(inputs))
            found.replay()
            return found.output
        runs = self._runs.get(key) or 0
        self._runs.put(key, runs + 1)
        if runs != RUNS_BEFORE_CAPTURE or self._failures >= MAX_FAILURES:
            return forward(inputs)
        try:
            output, replay = self._record(lambda: forward(inputs))
        except Exception as error:
            self._failures += 1
            log.warning("a pass cannot be captured as a graph and runs without: %s", error, exc_info=True)
            return forward(inputs)
        self._captured.put(key, _Captured(leaves(inputs), output, replay))
        self._runs.put(key, 0)  # if the graph is dropped as the least recently used one, counting starts again
        return output


class _Recent(Generic[V]):
    """A dict that keeps the entries used last."""

    def __init__(self, size: int):
        self._size = size
        self._entries: OrderedDict[Hashable, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> V | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Hashable, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
