"""Milliseconds per pass of a published shape with random weights, for whoever has a card: `make gpu`.

Each case fills canvases of 512 tokens by hand-stepped engine, so that a step can be timed. It needs torch and the
packages of `unmask`, no network and no download.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from unmask.engine.caching import parse_cache
from unmask.engine.engine import Engine
from unmask.engine.request import Request
from unmask.evals.bench.offline import profile_offline
from unmask.evals.bench.roofline import Machine, measure_machine, reached
from unmask.evals.bench.shapes import SHAPES, random_model
from unmask.models.loading import Model
from unmask.schedulers import parse_scheduler_text

PROMPT, REGION, BLOCK = 64, 448, 32
RUNS_OF_GRAPHS = 4  # the first ones compile, allocate and capture


@dataclass(frozen=True)
class Case:
    """Rows side by side, tokens revealed per pass, and whether passes are replayed as graphs."""

    rows: int
    cache: str
    revealed: int
    graphs: bool

    def __str__(self) -> str:
        with_graphs = ", as graphs" if self.graphs else ""
        return f"rows {self.rows}, cache {self.cache}, {self.revealed} tokens a pass{with_graphs}"


CASES = (
    Case(1, "none", 16, False),
    Case(1, "dual", 4, False),
    Case(1, "dual", 4, True),
    Case(8, "none", 16, False),
    Case(8, "dual", 4, False),
    Case(8, "dual", 4, True),
    Case(32, "none", 32, False),
    Case(32, "dual", 4, False),
)


@dataclass(frozen=True)
class Timing:
    """Of the last run. Most passes of `dual` compute a block, the slowest a whole canvas; milliseconds per pass."""

    passes: int
    median_ms: float
    slowest_ms: float
    tokens_per_second: float
    peak_gib: float


def time_case(model: Model, case: Case, region: int = REGION) -> Timing:
    """Answer `case.rows` requests side by side, twice or more, and time each pass of the last run."""
    engine = Engine(model, max_rows=case.rows, static=case.graphs, prefix_reuse=False)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    for _ in range(RUNS_OF_GRAPHS if case.graphs else 2):
        for request in _requests(case, region):
            engine.submit(request)
        seconds = list(_steps(engine))
    peak = torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else 0
    rate = case.rows * region / sum(seconds)
    return Timing(len(seconds), 1e3 * median(seconds), 1e3 * max(seconds), rate, peak / 2**30)


def roofline(
    model: Model, case: Case, timing: Timing, machine: Machine, region: int = REGION
) -> tuple[float, float] | None:
    """The shares of the machine's matrix rate and bandwidth that the timed run reached. Another run counts its work."""
    work = profile_offline(model, list(_requests(case, region)), case.rows).work
    seconds = case.rows * region / timing.tokens_per_second
    return reached(model.network.architecture, work, model.dtype.itemsize, seconds, machine)


def results(model: Model, cases: Iterable[Case], machine: Machine, region: int = REGION) -> Iterator[dict[str, Any]]:
    """What each case came to, the case's own fields first, as soon as it is known; it also prints a line. Minutes are
    not lost because a later case needs more memory than there is: that one is named and left out."""
    for case in cases:
        try:
            timing = time_case(model, case, region)
            torch.cuda.empty_cache()
            shares = roofline(model, case, timing, machine, region) or (math.nan, math.nan)
        except torch.OutOfMemoryError:
            print(f"{case}: not enough memory", flush=True)
        else:
            print(f"{case}: {timing.median_ms:,.1f} ms a pass, {timing.tokens_per_second:,.0f} tokens/s", flush=True)
            yield {**asdict(case), **asdict(timing), "of_matrix_rate": shares[0], "of_bandwidth": shares[1]}
        torch.cuda.empty_cache()


def _requests(case: Case, region: int) -> Iterator[Request]:
    scheduler, cache = parse_scheduler_text(f"topk:n={case.revealed}"), parse_cache(case.cache)
    for i in range(case.rows):
        prompt = tuple(3 + (7 * i + j) % 60 for j in range(PROMPT))
        yield Request(f"r{i}", prompt, region, BLOCK, scheduler, seed=i, cache=cache, ignore_eos=True)


def _steps(engine: Engine) -> Iterator[float]:
    """Seconds of each pass; a pass ends by reading what it decided, so the device is done."""
    while engine.running or engine.waiting:
        started = time.perf_counter()
        engine.step()
        yield time.perf_counter() - started


def main() -> None:
    """Time all cases, print a table, and write JSON after each, if asked. Without a CUDA device, name all cases."""
    parser = argparse.ArgumentParser(prog="python -m unmask.evals.bench.gpu", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llada-8b")
    parser.add_argument("--compile", action="store_true", help="make the kernels with torch.compile, for minutes")
    parser.add_argument("--json", type=Path, help="also write the results there")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("skipped, as torch finds no CUDA device:", *(f"{given.shape}, {case}" for case in CASES), sep="\n")
        return
    model = random_model(SHAPES[given.shape], given.shape, "cuda", "bfloat16", given.compile)
    machine = measure_machine(model.device, model.dtype)
    names = ("rows", "cache", "revealed", "graphs", "passes", "median ms", "slowest ms", "tokens/s", "peak GiB")
    title = f"{model.name} on {torch.cuda.get_device_name()}"
    table = Table(*names, "% of matrix rate", "% of bandwidth", box=SIMPLE_HEAD, title=title)
    found: list[dict[str, Any]] = []
    for result in results(model, CASES, machine):
        found.append(result)
        case, (passes, *numbers, matrices, bandwidth) = list(result.values())[:4], list(result.values())[4:]
        percent = (*numbers, 100 * matrices, 100 * bandwidth)
        table.add_row(*map(str, case), str(passes), *(f"{number:,.1f}" for number in percent))
        if given.json:
            given.json.write_text(json.dumps({"torch": torch.__version__, **asdict(machine), "cases": found}, indent=1))
    Console().print(table)
    print(f"{machine.operations_per_second / 1e12:,.0f} TFLOP/s, {machine.bytes_per_second / 1e12:,.2f} TB/s measured")


if __name__ == "__main__":
    main()
