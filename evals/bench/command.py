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
from unmask.engine.input_state import AUTO, choose_input_state, require_input_state
from unmask.engine.pace import parse_paced
from unmask.engine.request import Request
from unmask.errors import UsageError, unknown
from unmask.evals.bench.http import run_http, serving
from unmask.evals.bench.offline import Profile, profile_offline, run_offline
from unmask.evals.bench.reference import require_plain, run_reference
from unmask.evals.bench.report import Line, as_json, show
from unmask.evals.bench.roofline import Machine, measure_machine, reached
from unmask.evals.bench.runs import Comparison, Run, alternate
from unmask.evals.bench.settings import BenchSettings
from unmask.evals.bench.workload import kinds, problems_of, workload
from unmask.evals.tasks import TASKS, Problem, grade_all
from unmask.models.loading import Model, load_configured

REFERENCE = "reference"
PIPED_WIDTH = 120  # columns of a table that goes to a file
Over = Literal["offline", "http"]
Watched = tuple[Profile, tuple[float, float] | None]  # see `Line.watched`


@dataclass(frozen=True)
class Setup:
    """How a contestant answers the requests, as the JSON shows it."""

    scheduler: str
    cache: str
    input_state: str
    concurrency: int
    over: Over
    batch_invariant: bool

    @property
    def name(self) -> str:
        words = [self.scheduler, self.cache, *[self.input_state] * (self.input_state != AUTO), str(self.concurrency)]
        words += ["http"] if self.over == "http" else []
        words += ["invariant"] if self.batch_invariant else []
        return " ".join(words)


@dataclass(frozen=True)
class Contestant:
    """One line of the report.

    setup  None for the reference
    run    answers all requests once
    watch  runs once more under a stopwatch; None if that is not possible
    """

    name: str
    setup: Setup | None
    run: Callable[[], Run]
    watch: Callable[[], Watched] | None = None

    @property
    def what(self) -> dict[str, Any]:
        return {} if self.setup is None else vars(self.setup)


def bench(settings: BenchSettings) -> None:
    """Warm up, watch one run of each contestant, time the rounds, show tables, and write JSON if asked."""
    _check(settings)
    for text in settings.scheduler:
        parse_paced(text)
    for text in settings.cache:
        require_cache(text)
    for text in settings.input_state:
        require_input_state(text)
    model = load_configured(settings)
    if settings.against:
        require_plain(model.network)
    machine = measure_machine(model.device, model.dtype)
    with ExitStack() as stack:
        contestants = _contestants(model, settings, machine, _url(settings, stack))
        # Drawn between runs only: a bar that draws by itself takes time from what is measured.
        progress = stack.enter_context(Progress(console=Console(stderr=True), auto_refresh=False))
        bar = progress.add_task("", total=(1 + settings.rounds) * len(contestants))
        advance = partial(progress.update, bar, advance=1, refresh=True)
        # The first run pays for set-up. The largest goes first: compiled code is made for the first sizes that it sees.
        largest_first = sorted(contestants, key=lambda c: c.setup.concurrency if c.setup else 0, reverse=True)
        alternate({c.name: c.run for c in largest_first}, 1, advance)
        watched = {c.name: c.watch() for c in contestants if c.watch is not None}
        runs = alternate({c.name: c.run for c in contestants}, settings.rounds, advance)
    lines = [
        Line(
            c.name, vars(c.setup) if c.setup else {}, runs[c.name], _against(c, contestants, runs), watched.get(c.name)
        )
        for c in contestants
    ]
    where = _where(model)
    show(Console(width=None if sys.stdout.isatty() else PIPED_WIDTH), machine, where, lines)
    if settings.json_file:
        found = as_json(settings.model_dump(mode="json"), machine, where, lines)
        settings.json_file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def _check(settings: BenchSettings) -> None:
    """Raise UsageError for settings that exclude each other, before a model is loaded."""
    if strangers := [name for name in settings.task if name not in TASKS]:
        raise UsageError(f"--task: {unknown('task', strangers[0], TASKS)}")
    for flag in ("url", "rate"):
        if getattr(settings, flag) is not None and not settings.http:
            raise UsageError(f"--{flag} is for runs over HTTP; add --http")
    if settings.http and any(settings.batch_invariant):
        raise UsageError("--batch-invariant is measured without HTTP; leave out --http")
    if settings.rate is not None and len(settings.concurrency) > 1:
        raise UsageError("--rate takes the place of --concurrency over HTTP; give one --concurrency")
    if not settings.against:
        return
    mix = kinds(settings.max_tokens, settings.task)
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


def _requests(model: Model, settings: BenchSettings, setup: Setup) -> list[Request]:
    (scheduler, pace), cache = parse_paced(setup.scheduler), choose_cache(setup.cache, model.network.architecture)
    count, seed, length = settings.requests, settings.seed, settings.block_length
    asked = workload(model, count, seed, settings.max_tokens, scheduler, cache, length, settings.task)
    state = choose_input_state(setup.input_state, model)
    return [replace(request, input_state=state, pace=pace) for request in asked]


def _url(settings: BenchSettings, stack: ExitStack) -> str:
    """The server for runs over HTTP: the one that was given, or one that is started with as many rows as are needed."""
    if not settings.http:
        return ""
    return settings.url or stack.enter_context(serving(settings, max(settings.concurrency), settings.requests))


def _contestants(model: Model, settings: BenchSettings, machine: Machine, url: str) -> list[Contestant]:
    """The reference, if asked for, and every combination of the settings."""
    overs: tuple[Over, ...] = ("offline", "http") if settings.http else ("offline",)
    overs = overs if settings.rate is None else ("http",)  # an open loop compares with no closed one
    which = (settings.scheduler, settings.cache, settings.input_state)
    parts = (*which, settings.concurrency, overs, settings.batch_invariant)
    setups = [Setup(*combination) for combination in product(*parts)]
    asked = {setup: _requests(model, settings, setup) for setup in setups}
    rows, fraction = max(settings.concurrency), settings.memory_fraction
    engines = {  # each round asks the same
        mode: Engine(model, rows, fraction, batch_invariant=mode, prefix_reuse=False)
        for mode in settings.batch_invariant
    }

    problems = problems_of(settings.task, settings.requests, settings.seed)

    def graded(run: Callable[[], Run]) -> Callable[[], Run]:
        return lambda: _graded(run(), problems, model)

    def contestant(setup: Setup) -> Contestant:
        requests, concurrency = asked[setup], setup.concurrency
        if setup.over == "http":
            run = partial(run_http, url, requests, concurrency, settings.rate, settings.seed, settings.stream)
            return Contestant(setup.name, setup, graded(run))
        run = partial(run_offline, engines[setup.batch_invariant], requests, concurrency)
        return Contestant(setup.name, setup, graded(run), partial(_watch, model, settings, requests, setup, machine))

    contestants = [contestant(setup) for setup in setups]
    if settings.against:
        some = asked[setups[0]][: settings.reference_requests]
        contestants.insert(0, Contestant(REFERENCE, None, graded(partial(run_reference, model, some))))
    return contestants


def _graded(run: Run, problems: Sequence[Problem], model: Model) -> Run:
    """A run, and the share of its answers that solve their problems, of which the reference is asked the first ones."""
    texts = [model.tokenizer.decode(list(answer.token_ids)) for answer in run.answers]
    solved = grade_all(problems[: len(texts)], texts)
    return replace(run, solved=sum(solved) / len(solved))


def _watch(
    model: Model, settings: BenchSettings, requests: Sequence[Request], setup: Setup, machine: Machine
) -> Watched:
    """Where the time of a watched run went, and the shares of the machine that it reached."""
    profile = profile_offline(model, requests, setup.concurrency, settings.memory_fraction, setup.batch_invariant)
    a, quantised = model.network.architecture, model.quantization is not None
    return profile, reached(a, profile.work, model.dtype.itemsize, profile.seconds, machine, quantised)


def _against(
    one: Contestant, contestants: Sequence[Contestant], runs: Mapping[str, Sequence[Run]]
) -> dict[str, Comparison]:
    """Compare with the reference, with the first contestant, and a run over HTTP with the same offline."""
    if one.setup is None:
        return {}
    first = next(other.name for other in contestants if other.setup is not None)
    bases = {REFERENCE: REFERENCE, "first": first, "offline": replace(one.setup, over="offline").name}
    return {
        label: Comparison.of(runs[one.name], runs[base])
        for label, base in bases.items()
        if base in runs and base != one.name
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
