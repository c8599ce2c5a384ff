"""The same step again, without the host in between: inputs in fixed places, the work captured as a CUDA graph."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.transfer import Arrays, Signature, join, signature, split, upload

RUNS_BEFORE_CAPTURE = 2  # the first compiles and allocates; shapes that do not recur are not worth a capture
MAX_GRAPHS = 256

Decide = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class _Captured:
    inputs: Tensor
    output: Tensor
    replay: Callable[[], None]


class Graphs:
    """Runs a step, and from its third run with equal shapes on replays what was captured.

    On a CPU nothing can be captured; there the step is called anew on the same fixed inputs, which is what a replay
    reads.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._seen: Counter[Hashable] = Counter()
        self._captured: dict[Hashable, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def run(self, key: Hashable, arrays: Arrays, decide: Decide) -> Tensor:
        """decide(arrays on the device). Steps of equal keys and shapes must run the same kernels."""
        signed = signature(arrays)
        key = (key, signed)
        self._seen[key] += 1
        flat = upload(join(arrays), self._device)
        found = self._captured.get(key)
        if found is not None:
            found.inputs.copy_(flat)
        elif self._seen[key] <= RUNS_BEFORE_CAPTURE or len(self._captured) >= MAX_GRAPHS:
            return decide(split(flat, signed))
        else:
            found = self._captured[key] = self._capture(flat, signed, decide)
        found.replay()
        return found.output

    def _capture(self, inputs: Tensor, signed: Signature, decide: Decide) -> _Captured:
        if self._pool is None:
            outputs = decide(split(inputs, signed))

            def call_again() -> None:
                outputs.copy_(decide(split(inputs, signed)))

            return _Captured(inputs, outputs, call_again)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = decide(split(inputs, signed))
        return _Captured(inputs, output, graph.replay)
