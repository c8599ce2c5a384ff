"""What a benchmark found: tables to read and JSON to keep."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from unmask.evals.bench.offline import Profile
from unmask.evals.bench.roofline import Machine
from unmask.evals.bench.runs import Comparison, Run, Spread, spreads

MIB = 1 << 20
SECONDS = ("first_p50", "first_p95", "latency_p50", "latency_p95", "latency_p99")


@dataclass(frozen=True)
class Line:
    """One contestant of a report.

    what     scheduler, cache and so on, for the JSON
    against  the comparisons with other contestants, by their names
    watched  where the time of a run went, and the shares of the machine's matrix rate and memory bandwidth that it
             reached; None if the run was not watched
    """

    name: str
    what: Mapping[str, Any]
    runs: Sequence[Run]
    against: Mapping[str, Comparison]
    watched: tuple[Profile, tuple[float, float] | None] | None = None


def as_json(settings: Mapping[str, Any], machine: Machine, where: Mapping[str, Any], lines: Sequence[Line]) -> Any:
    """All of it: what was asked for, where it ran, and every line with its medians and its rounds."""
    return {
        "settings": settings,
        "machine": {**where, **asdict(machine)},
        "results": [_as_json(line) for line in lines],
    }


def show(console: Console, machine: Machine, where: Mapping[str, Any], lines: Sequence[Line]) -> None:
    """Print the tables and the roofline."""
    console.print(_speed(lines))
    if others := list(dict.fromkeys(name for line in lines for name in line.against)):
        console.print(_compared(lines, others))
    console.print(_latency(lines))
    console.print(_profile(lines))
    console.print(
        f"measured of the machine: {where['device']}, {machine.operations_per_second / 1e9:,.0f} GFLOP/s in "
        f"{where['dtype']}, {machine.bytes_per_second / 1e9:,.1f} GB/s"
    )


def _as_json(line: Line) -> dict[str, Any]:
    return {
        "name": line.name,
        **line.what,
        "figures": {name: spread and asdict(spread) for name, spread in spreads(line.runs).items()},
        "against": {name: asdict(comparison) for name, comparison in line.against.items()},
        "watched": None if line.watched is None else _watched_json(*line.watched),
        "rounds": [{"seconds": run.seconds, "requests": len(run.answers), **run.figures()} for run in line.runs],
    }


def _watched_json(profile: Profile, reached: tuple[float, float] | None) -> dict[str, Any]:
    of_rate, of_bandwidth = reached or (None, None)
    return {
        "seconds": profile.seconds,
        "shares": profile.shares(),
        "work": asdict(profile.work),
        "of_matrix_rate": of_rate,
        "of_bandwidth": of_bandwidth,
    }


def _speed(lines: Sequence[Line]) -> Table:
    table = _table("speed: medians of the rounds", "tokens/s", "least - most", "passes/s", "tokens/pass", "solved")
    for line in lines:
        found = spreads(line.runs)
        table.add_row(
            line.name,
            _median(found["tokens_per_second"], "{:,.0f}"),
            _range(found["tokens_per_second"], "{:,.0f}"),
            _median(found["passes_per_second"], "{:,.1f}"),
            _median(found["tokens_per_pass"], "{:.2f}"),
            _median(found["solved"], "{:.1%}"),
        )
    return table


def _compared(lines: Sequence[Line], others: Sequence[str]) -> Table:
    title = "compared: tokens/s as a multiple of another's, and how many answers are the same"
    table = _table(title, *(f"x {name}" for name in others))
    for line in lines:
        table.add_row(line.name, *(_comparison(line.against.get(name)) for name in others))
    return table


def _latency(lines: Sequence[Line]) -> Table:
    columns = ("first\np50", "first\np95", "last\np50", "last\np95", "last\np99", "peak\nMiB")
    title = "seconds to the first settled token and to the last, and the most memory held"
    table = _table(title, *columns)
    for line in lines:
        found = spreads(line.runs)
        seconds = (_median(found[key], "{:.3f}") for key in SECONDS)
        peak = found["peak_bytes"]
        table.add_row(line.name, *seconds, f"{peak.median / MIB:,.0f}" if peak else "-")
    return table


def _profile(lines: Sequence[Line]) -> Table:
    parts = ("model", "statistics", "scheduler", "bookkeeping")
    table = _table(
        "where the time of a step goes, and the share of the machine that it reaches",
        *(name.replace("keeping", "-\nkeeping") for name in parts),
        "matrix\nrate",
        "band-\nwidth",
    )
    for line in lines:
        if line.watched is not None:
            profile, reached = line.watched
            shares = [profile.shares()[part] for part in parts]
            of_machine = [f"{share:.1%}" for share in reached] if reached else ["-", "-"]
            table.add_row(line.name, *(f"{share:.1%}" for share in shares), *of_machine)
    return table


def _table(title: str, *columns: str | Column) -> Table:
    numbers = [column if isinstance(column, Column) else Column(column, justify="right") for column in columns]
    return Table(
        Column("scheduler, cache,\nrequests at once", overflow="fold"),
        *numbers,
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )


def _range(spread: Spread | None, form: str) -> str:
    return "-" if spread is None else f"{form} - {form}".format(spread.least, spread.most)


def _median(spread: Spread | None, form: str) -> str:
    return "-" if spread is None else form.format(spread.median)


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        return "-"
    return f"{comparison.ratio.median:.2f}, {comparison.identical} of {comparison.compared}"
