"""What `unmask eval` shows of its measurements: a table for each panel, and one number for each curve of a sweep."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from unmask.engine.input_state import MASK
from unmask.evals.aup import Parallel, aup
from unmask.evals.measure import Measurement, label
from unmask.evals.sweep import Point

NUMBERS = ("accuracy %, 95 %", "passes, 95 %", "local\nAR", "global\nAR", "tokens/s")
LONGEST_NAME = 24  # of a scheduler, in characters; the table then fits 80 columns
LEGEND = """95 %: interval, of accuracy by Wilson. passes: forward passes per problem.
local AR, global AR: how far from left to right tokens were revealed, 1 is
strictly so (arXiv 2506.20639)."""
AUP_LEGEND = """AUP: area under accuracy (%) against tokens of the region per forward pass,
where what is below the best accuracy of the table counts less (evals/aup.py)."""


def table(points: Sequence[Point]) -> Table:
    """The points of one panel: one task, block length and cache."""
    found = _table(_panel(points[0].measurement), *NUMBERS)
    for r in (point.measurement for point in points):
        fed = "" if r.input_state == MASK.name else f"\n  {r.input_state}"
        found.add_row(
            _in_lines(label(r)) + fed,
            f"{100 * r.accuracy:.1f} ({100 * r.accuracy_low:.1f}-{100 * r.accuracy_high:.1f})",
            f"{r.forward_passes:.2f} ± {r.passes_high - r.forward_passes:.2f}",
            f"{r.local_ar:.2f}",
            f"{r.global_ar:.2f}",
            f"{r.tokens_per_second:,.0f}",
        )
    return found


def aup_table(points: Sequence[Point]) -> Table:
    """The curves of one panel, best first."""
    found = _table(_panel(points[0].measurement), "AUP", "best %", "fewest\npasses")
    for name, area in aups(points).items():
        curve = [point.measurement for point in points if point.curve == name]
        best, fewest = max(m.accuracy for m in curve), min(m.forward_passes for m in curve)
        found.add_row(name, f"{area:,.0f}", f"{100 * best:.1f}", f"{fewest:.2f}")
    return found


def aups(points: Sequence[Point]) -> dict[str, float]:
    """The AUP of each curve of one panel, highest first."""
    best = max(point.measurement.accuracy for point in points)
    curves: dict[str, list[Parallel]] = {}
    for point in points:
        m = point.measurement
        curves.setdefault(point.curve, []).append(Parallel(m.max_tokens / m.forward_passes, m.accuracy))
    return dict(sorted(((name, aup(curve, best)) for name, curve in curves.items()), key=lambda pair: -pair[1]))


def _panel(first: Measurement) -> str:
    return f"{first.task}, block {first.block_length}, cache {first.cache}"


def _table(title: str, *numbers: str) -> Table:
    return Table(
        Column("scheduler", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True) for name in numbers),
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
    )


def _in_lines(name: str) -> str:
    """A scheduler with its options, each on a line of its own where the whole is long."""
    return name if len(name) <= LONGEST_NAME else name.replace(":", "\n  :")
