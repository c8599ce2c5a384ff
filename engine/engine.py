"""The decode loop. There is one, and this is it: commands, endpoints, evaluation and training all read its steps."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

import torch

from engine.batch import Batch, read
from engine.canvas import Canvas
from engine.choosing import Chooser, scheduler_of
from engine.proposal import Sampling, propose
from engine.request import Request, Result, Step
from engine.transfer import upload
from models.loading import Model

STEPS_PER_SEED = 1_000_003  # seeds of consecutive requests differ by more than their steps


class Engine:
    """Runs requests side by side, one forward pass at a time. Not thread-safe; `EngineService` gives it a thread.

    Requests join and leave at any step, and rows of a batch may differ in everything. A request's result depends on
    its own fields alone, up to the rounding of matrix products, which may differ between batches of different shapes.
    """

    def __init__(self, model: Model, max_rows: int = 64):
        self.model = model
        self._max_rows = max_rows
        rows = model.network.architecture.vocab_rows
        self._forbidden = torch.arange(rows, device=model.device) >= model.vocab_size
        self._forbidden[model.mask_id] = True
        self.reset()

    def reset(self) -> None:
        """Forget every request, waiting or running."""
        self._waiting: deque[Canvas] = deque()
        self._canvases: list[Canvas] = []  # row i of the batch belongs to canvas i
        self._batch = Batch(self.model.mask_id, self.model.device)
        self._chooser = Chooser(self.model.device)
        self._regroup()

    @property
    def running(self) -> int:
        """Requests that are rows of the batch."""
        return len(self._canvases)

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request; it joins at the next step that has room."""
        may_remask = scheduler_of(request.scheduler).needs.remask
        now = time.monotonic()
        self._waiting.append(Canvas(request, self.model.tokenizer, self.model.stop_ids, may_remask, now))

    def cancel(self, request_id: str) -> Step | None:
        """Drop a request, waiting or running; its last step says so. None if there is no such request."""
        for canvas in [*self._waiting, *self._canvases]:
            if canvas.request.id == request_id:
                self._waiting = deque(other for other in self._waiting if other is not canvas)
                self._retain([other is not canvas for other in self._canvases])
                return canvas.cancelled()
        return None

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """Advance every running request by one forward pass."""
        self._admit()
        if not self._canvases:
            return []
        window = self._batch.window(self._canvases)
        logits = self.model.network(self._batch.tokens, key_mask=self._batch.key_mask, wanted=window.wanted)
        seed = self._seeds + window.step
        positions = window.positions.gather(1, window.masked)
        proposal = propose(logits, self._forbidden, self._chooser.needs, self._sampling, seed, positions)
        proposal = proposal.scatter(window.masked, window.mask.shape[1])
        reveal, remask = self._chooser.choose(window, proposal, seed)
        self._batch.commit(window, proposal, reveal, remask)
        outcome = read(self._canvases, proposal, reveal, remask)
        steps = [canvas.advance(*change) for canvas, change in zip(self._canvases, outcome, strict=True)]
        self._retain([step.result is None for step in steps])
        return steps

    def run(self, requests: Iterable[Request]) -> Iterator[Step]:
        """Submit requests and yield every step until all have ended."""
        for request in requests:
            self.submit(request)
        while self.waiting or self.running:
            yield from self.step()

    def results(self, requests: Iterable[Request]) -> dict[str, Result]:
        """The result of each request, by id."""
        return {step.request_id: step.result for step in self.run(requests) if step.result is not None}

    def _admit(self) -> None:
        """Let waiting requests join, first come first served, while there is room."""
        room = self._max_rows - len(self._canvases)
        joining = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        if joining:
            now = time.monotonic()
            for canvas in joining:
                canvas.started = now
            self._canvases += joining
            self._batch.join(joining)
            self._regroup()

    def _retain(self, keep: list[bool]) -> None:
        """Let the rows leave whose flag is false."""
        if not all(keep):
            rows = [row for row, stays in enumerate(keep) if stays]
            self._canvases = [self._canvases[row] for row in rows]
            self._batch.keep(rows)
            self._regroup()

    def _regroup(self) -> None:
        """Bring what depends on who is in the batch up to date."""
        requests = [canvas.request for canvas in self._canvases]
        self._chooser.regroup(self._canvases)
        self._sampling = Sampling.of(requests, self.model.device)
        seeds = [_wrap(request.seed * STEPS_PER_SEED) for request in requests]
        self._seeds = upload(torch.tensor(seeds, dtype=torch.long), self.model.device)


def _wrap(value: int) -> int:
    """A Python integer as a signed 64-bit one."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
