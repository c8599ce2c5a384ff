"""Schedulers under an open-loop load, by the clock of one processor core: `python -m unmask.evals.bench.load`.

Requests arrive at random, whatever the answers do. The clock is the processor time that the engine's steps take, on one
thread, and leaps to the next arrival while nothing runs; so other work on the machine counts hardly.
"""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch

from unmask import defaults
from unmask.engine.caching import NO_CACHE
from unmask.engine.engine import Engine
from unmask.engine.pace import parse_paced
from unmask.engine.request import Request, Result
from unmask.evals.bench.http import arrivals
from unmask.evals.bench.runs import percentile
from unmask.evals.bench.workload import problems_of, workload
from unmask.evals.tasks import TASKS, grade_all
from unmask.models.loading import Model, load_model


@dataclass(frozen=True)
class Loaded:
    """What requests of an open loop met: seconds from arrival to the answer, results, and seconds in all."""

    latencies: tuple[float, ...]
    results: tuple[Result, ...]
    seconds: float


def open_loop(engine: Engine, requests: Sequence[Request], due: Sequence[float]) -> Loaded:
    """Answer requests that arrive at `due`, seconds that never fall, on an engine with nothing to do."""
    clock, sent = 0.0, 0
    came = {request.id: at for request, at in zip(requests, due, strict=True)}
    latencies, results = dict[str, float](), dict[str, Result]()
    while len(results) < len(requests):
        if not engine.running and not engine.waiting:
            clock = max(clock, due[sent])
        while sent < len(requests) and due[sent] <= clock:
            engine.submit(requests[sent])
            sent += 1
        began = time.process_time()
        steps = engine.step()
        clock += time.process_time() - began
        for step in steps:
            if step.result is not None:
                results[step.request_id] = step.result
                latencies[step.request_id] = clock - came[step.request_id]
    ids = [request.id for request in requests]
    return Loaded(tuple(latencies[id] for id in ids), tuple(results[id] for id in ids), clock)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llada-nano")
    parser.add_argument("--task", default="word-problems", choices=TASKS)
    parser.add_argument("--scheduler", default="threshold,threshold:speed=auto", help="the first is what loads mean")
    parser.add_argument("--loads", default="0.5,2", help="arrivals, as multiples of what the first sustains")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--rows", type=int, default=defaults.MAX_ROWS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, names = load_model(given.model, device="cpu"), given.scheduler.split(",")
    asked = {name: _requests(model, given.task, given.requests, name) for name in names}
    at_once = [0.0] * given.requests
    open_loop(Engine(model, given.rows), asked[names[0]], at_once)  # pays for set-up
    for load in map(float, given.loads.split(",")):
        # Measured anew beside each load, as the processor's speed drifts.
        sustained = given.requests / open_loop(Engine(model, given.rows), asked[names[0]], at_once).seconds
        due = arrivals(given.requests, load * sustained, seed=0)
        print(
            f"load {load:g}: {load * sustained:.2f} requests/s, where {names[0]} sustains {sustained:.2f}", flush=True
        )
        for name in names:
            print(f"  {name}: {_told(given, open_loop(Engine(model, given.rows), asked[name], due))}", flush=True)


def _requests(model: Model, task: str, count: int, scheduler: str) -> list[Request]:
    spec, pace = parse_paced(scheduler)
    plain = workload(model, count, 0, (), spec, NO_CACHE, defaults.BLOCK_LENGTH, (task,))
    return [replace(request, pace=pace) for request in plain]


def _told(given: Namespace, loaded: Loaded) -> str:
    problems = problems_of((given.task,), given.requests, 0)
    solved = mean(grade_all(problems, [result.text for result in loaded.results]))
    passes = mean(result.forward_passes for result in loaded.results)
    speed = mean(result.speed or 0.0 for result in loaded.results)
    p50, p95 = (percentile(loaded.latencies, share) for share in (0.5, 0.95))
    return f"p50 {p50:.2f} s, p95 {p95:.2f} s, solved {solved:.1%}, {passes:.2f} passes, mean speed {speed:.2f}"


if __name__ == "__main__":
    main()
