"""The command `unmask bench`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import product
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import Progress

from unmask.engine.caching import choose_cache, require_cache
from unmask.engine.engine import Engine
from unmask.engine.request import Request
from unmask.errors import UsageError
from unmask.evals.bench.http import run_http, serving
from unmask.evals.bench.offline import Profile, profile_offline, run_offline
from unmask.evals.bench.reference import require_plain, run_reference
from unmask.evals.bench.report import Line, as_json, show
from unmask.evals.bench.roofline import Machine, measure_machine, reached
from unmask.evals.bench.runs import Comparison, Run, alternate
from unmask.evals.bench.settings import BenchSettings
from unmask.evals.bench.workload import kinds, workload
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler_text

REFERENCE = "reference"
PIPED_WIDTH = 120  # columns of a table that goes to a file
Over = Literal["offline", "http"]


@dataclass(frozen=True)
class Cell:
    """One contestant beside the reference."""

    scheduler: str
    cache: str
    concurrency: int
    over: Over
    batch_invariant: bool

    @property
    def name(self) -> str:
        how = " http" * (self.over == "http") + " invariant" * self.batch_invariant
        return f"{self.scheduler} {self.cache} {self.concurrency}{how}"


def bench(settings: BenchSettings) -> None:
    """Warm up, watch one run of each cell, time the rounds, show tables, and write JSON if asked."""
    _check(settings)
    for text in settings.scheduler:
        parse_scheduler_text(text)
    for text in settings.cache:
        require_cache(text)
    model = load_model(
        settings.model, settings.revision, settings.device, settings.dtype, settings.compile, settings.quantization
    )
    overs: tuple[Over, ...] = ("offline", "http") if settings.http else ("offline",)
    kinds_of_cells = (settings.scheduler, settings.cache, settings.concurrency, overs, settings.batch_invariant)
    cells = [Cell(*parts) for parts in product(*kinds_of_cells)]
    if settings.against:
        require_plain(model.network)
    requests = {cell: _requests(model, settings, cell) for cell in cells}
    machine = measure_machine(model.device, model.dtype)
    with ExitStack() as stack:
        url = _url(settings, stack)
        contestants = _contestants(model, settings, requests, url)
        # Drawn between runs only: what draws by itself takes the time of what is measured.
        progress = stack.enter_context(Progress(console=Console(stderr=True), auto_refresh=False))
        bar = progress.add_task("", total=(1 + settings.rounds) * len(contestants))
        advance = partial(progress.update, bar, advance=1, refresh=True)
        # A first run pays for what is set up; the largest first, as compiled code is made for the sizes it sees first.
        alternate(dict(sorted(contestants.items(), key=_rows, reverse=True)), 1, advance)
        watched = [cell for cell in cells if cell.over == "offline"]
        profiles = {cell: _profile(model, settings, requests[cell], cell, machine) for cell in watched}
        runs = alternate(contestants, settings.rounds, advance)
    lines = [Line(cell.name, vars(cell), runs[cell], _against(cell, runs), profiles.get(cell)) for cell in cells]
    if settings.against:
        lines.insert(0, Line(REFERENCE, {}, runs[None], {}))
    where = _where(model)
    show(Console(width=None if sys.stdout.isatty() else PIPED_WIDTH), machine, where, lines)
    if settings.json_file:
        found = as_json(settings.model_dump(mode="json"), machine, where, lines)
        settings.json_file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def _rows(contestant: tuple[Cell | None, object]) -> int:
    cell, _ = contestant
    return 0 if cell is None else cell.concurrency


def _check(settings: BenchSettings) -> None:
    """Raise UsageError for what makes no sense, before a model is loaded."""
    for flag in ("url", "rate"):
        if getattr(settings, flag) is not None and not settings.http:
            raise UsageError(f"--{flag} is about runs over HTTP; add --http")
    if settings.http and any(settings.batch_invariant):
        raise UsageError("--batch-invariant is measured without HTTP; leave out --http")
    if settings.rate is not None and len(settings.concurrency) > 1:
        raise UsageError("--rate takes the place of --concurrency over HTTP; give one --concurrency")
    if not settings.against:
        return
    mix = kinds(settings.max_tokens)
    for flag, count in (("reference-requests", settings.reference_requests), ("requests", settings.requests)):
        if count % mix:
            raise UsageError(
                f"--{flag} of {count} would give the reference another mix of requests; choose a "
                f"multiple of {mix}, the number of tasks times that of lengths"
            )
    if settings.reference_requests > settings.requests:
        raise UsageError(
            f"--reference-requests of {settings.reference_requests} are more than --requests of "
            f"{settings.requests}; choose at most as many"
        )


def _requests(model: Model, settings: BenchSettings, cell: Cell) -> list[Request]:
    scheduler, cache = parse_scheduler_text(cell.scheduler), choose_cache(cell.cache, model.network.architecture)
    count, seed, length = settings.requests, settings.seed, settings.block_length
    return workload(model, count, seed, settings.max_tokens, scheduler, cache, length)


def _url(settings: BenchSettings, stack: ExitStack) -> str:
    """The server for runs over HTTP: the one that was given, or one that is started with as many rows as are needed."""
    if not settings.http:
        return ""
    return settings.url or stack.enter_context(serving(settings, max(settings.concurrency), settings.requests))


def _contestants(
    model: Model, settings: BenchSettings, requests: Mapping[Cell, Sequence[Request]], url: str
) -> dict[Cell | None, Callable[[], Run]]:
    """What runs in each round, by cell; the reference is under None."""
    runs: dict[Cell | None, Callable[[], Run]] = {}
    if settings.against:
        asked = next(iter(requests.values()))[: settings.reference_requests]
        runs[None] = partial(run_reference, model, asked)
    rows, fraction = max(settings.concurrency), settings.memory_fraction
    engines = {mode: Engine(model, rows, fraction, batch_invariant=mode) for mode in settings.batch_invariant}
    for cell, asked in requests.items():
        if cell.over == "http":
            runs[cell] = partial(run_http, url, asked, cell.concurrency, settings.rate, settings.seed, settings.stream)
        else:
            runs[cell] = partial(run_offline, engines[cell.batch_invariant], asked, cell.concurrency)
    return runs


def _profile(
    model: Model, settings: BenchSettings, requests: Sequence[Request], cell: Cell, machine: Machine
) -> tuple[Profile, tuple[float, float] | None]:
    """Where the time of a watched run went, and the shares of the machine that it reached."""
    profile = profile_offline(model, requests, cell.concurrency, settings.memory_fraction, cell.batch_invariant)
    a, quantised = model.network.architecture, model.quantization is not None
    return profile, reached(a, profile.work, model.dtype.itemsize, profile.seconds, machine, quantised)


def _against(cell: Cell, runs: Mapping[Cell | None, Sequence[Run]]) -> dict[str, Comparison]:
    """A cell beside the reference, beside the first cell, and over HTTP beside the same offline."""
    first = next(other for other in runs if other is not None)
    bases: dict[str, Cell | None] = {REFERENCE: None, "first": first, "offline": replace(cell, over="offline")}
    return {
        name: Comparison.of(runs[cell], runs[base]) for name, base in bases.items() if base in runs and base != cell
    }


def _where(model: Model) -> dict[str, Any]:
    """What the figures depend on beside the settings."""
    cuda = model.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(model.device) if cuda else f"CPU ({torch.get_num_threads()} threads)",
        "dtype": model.precision,
        "torch": torch.__version__,
        "unmask": version("unmask"),
    }
