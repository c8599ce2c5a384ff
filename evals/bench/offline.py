"""Requests through an engine in this process, a fixed number at a time, each followed by the next (a closed loop)."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unmask.defaults import MEMORY_FRACTION
from unmask.engine.engine import Engine
from unmask.engine.request import Request, Step
from unmask.engine.stopwatch import Stopwatch
from unmask.evals.bench.memory import peak_bytes, reset_peak
from unmask.evals.bench.roofline import Work
from unmask.evals.bench.runs import BenchAnswer, Run
from unmask.models.loading import Model

PARTS = ("model", "statistics", "scheduler")


@dataclass(frozen=True)
class Profile:
    """Where the time of a run went: seconds in all, seconds of each part, and what the network had to do."""

    seconds: float
    parts: dict[str, float]
    work: Work

    def shares(self) -> dict[str, float]:
        """Each part's share of the time; what is left is bookkeeping."""
        shares = {part: self.parts[part] / self.seconds for part in PARTS}
        return {**shares, "bookkeeping": 1 - sum(shares.values())}


def run_offline(engine: Engine, requests: Sequence[Request], concurrency: int) -> Run:
    """Answer the requests on an engine that has at least `concurrency` rows."""
    reset_peak(engine.model.device)
    started = time.perf_counter()
    answers = closed_loop(engine, requests, concurrency)
    return Run(time.perf_counter() - started, answers, peak_bytes(engine.model.device))


def profile_offline(
    model: Model,
    requests: Sequence[Request],
    concurrency: int,
    memory_fraction: float = MEMORY_FRACTION,
    batch_invariant: bool = False,
) -> Profile:
    """The same under a stopwatch. Not part of the timed runs, since a stopwatch may wait for the device."""
    watch, count = Stopwatch(), _Count(model.network.architecture.block_size is not None)
    engine = Engine(
        model, concurrency, memory_fraction, batch_invariant=batch_invariant, watch=watch, prefix_reuse=False
    )
    started = time.perf_counter()
    closed_loop(engine, requests, concurrency, count)
    seconds = time.perf_counter() - started
    work = Work(watch.steps, count.passes, watch.tokens, count.keys / count.passes, count.wanted)
    return Profile(seconds, {part: watch.seconds[part] for part in PARTS}, work)


def closed_loop(
    engine: Engine,
    requests: Sequence[Request],
    concurrency: int,
    on_step: Callable[[Request, Step], None] = lambda request, step: None,
) -> tuple[BenchAnswer, ...]:
    """Keep `concurrency` requests in the engine until all are answered; a request's clock starts when it goes in."""
    by_id = {request.id: request for request in requests}
    sent: dict[str, float] = {}
    first: dict[str, float] = {}
    answers: dict[str, BenchAnswer] = {}
    for request in requests[:concurrency]:
        sent[request.id] = time.perf_counter()
        engine.submit(request)
    while len(answers) < len(requests):
        for step in engine.step():
            now, name = time.perf_counter(), step.request_id
            on_step(by_id[name], step)
            if step.text:
                first.setdefault(name, now - sent[name])
            if step.result is not None:
                ids, passes = tuple(step.result.token_ids), step.result.forward_passes
                answers[name] = BenchAnswer(ids, passes, now - sent[name], first.get(name))
                if len(sent) < len(requests):
                    following = requests[len(sent)]
                    sent[following.id] = time.perf_counter()
                    engine.submit(following)
    return tuple(answers[request.id] for request in requests)


@dataclass
class _Count:
    """The work of the network, counted from the steps: passes, lengths of their canvases, positions to predict."""

    from_prompt: bool  # whether blocks are counted from the start of the prompt: block-causal models
    passes: int = 0
    keys: int = 0
    wanted: int = 0
    _revealed: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def __call__(self, request: Request, step: Step) -> None:
        self.passes += 1
        start = step.block * request.block_length - (
            len(request.prompt) % request.block_length if self.from_prompt else 0
        )
        size = min(start + request.block_length, request.max_tokens) - max(start, 0)
        self.keys += len(request.prompt) + request.max_tokens
        self.wanted += size - self._revealed[request.id, step.block]
        self._revealed[request.id, step.block] += len(step.revealed) - len(step.remasked)
