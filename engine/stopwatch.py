"""A stopwatch for the phases of a step."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up the seconds of named phases, and counts steps, row-passes and computed positions.

    On CUDA each phase waits for the device, which costs some speed; without a stopwatch nothing waits.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = self.passes = self.tokens = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[name] += time.perf_counter() - started

    def count(self, passes: int, tokens: int) -> None:
        """Count one step with its rows and computed positions."""
        self.steps += 1
        self.passes += passes
        self.tokens += tokens
