"""Accuracy against forward passes as a picture: one panel per task and block length, one line per curve.

matplotlib is an extra of its own and is imported when a picture is asked for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.evals.measure import Measurement
from unmask.evals.sweep import Point, SweepError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg")
POLICY = "policy"  # the scheduler of all learned ones
PANEL = (4.6, 3.6)  # inches
# Okabe and Ito's colours (2008), which differ for every kind of colour vision, with grey for their too pale yellow.
COLOURS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")  # one more than colours, so that pairs of them recur late
LINE: dict[str, Any] = {"linewidth": 1.2, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.6}
# Beside policies the other schedulers are grey, and the best of them are named where they are best.
GREY: dict[str, Any] = {"color": "#B8B8B8", "marker": "."}
APART = (0.35, 0.03)  # of names, in powers of ten of passes or in accuracy
NAMES, LINE_HEIGHT = 2, 7  # at one place, and points between them
NAME: dict[str, Any] = {"color": "#6E6E6E", "fontsize": 6, "va": "center"}
FRONT: dict[str, Any] = {"color": "#6E6E6E", "linewidth": 1.6, "drawstyle": "steps-post"}
UNDATED = {".svg": {"Date": None}}  # equal points give equal files
DPI = 160
MARGIN = 1.0  # inches for title and legend
NARROWEST = 6.4  # inches that they need, whatever the panels do


def check_plot(files: Sequence[Path]) -> None:
    """Raise SweepError unless pictures of these names can be drawn. Called before the measurements."""
    for file in files:
        if file.suffix not in SUFFIXES:
            raise SweepError(f"--plot {file} must end in {' or '.join(SUFFIXES)}")
    if files and find_spec("matplotlib") is None:
        raise SweepError('--plot needs matplotlib; install it with: pip install "unmask[plot]"')


def draw(points: Sequence[Point], file: Path) -> None:
    """Write the picture. Points of equal label are one line, in their order."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((point.measurement.task, point.measurement.block_length) for point in points))
    rows, columns = _shape(panels)
    width, height = max(NARROWEST, PANEL[0] * columns), PANEL[1] * rows + MARGIN
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    styles = _styles(points)
    for axes, (task, length) in zip(grid.flat, panels, strict=False):
        panel = [p for p in points if (p.measurement.task, p.measurement.block_length) == (task, length)]
        _draw_curves(axes, panel, styles)
        if _policies(points):
            _draw_front(axes, [point for point in panel if point.measurement.scheduler != POLICY])
        _dress(axes, f"{task}, block {length}")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(_title(points), fontsize="medium")
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=2 * columns, frameon=False)
    figure.savefig(file, dpi=DPI, metadata=UNDATED.get(file.suffix))


def _draw_curves(axes: "Axes", points: Sequence[Point], styles: Mapping[str, dict[str, Any]]) -> None:
    """Lines through the means, with bars for the intervals of both."""
    for curve in dict.fromkeys(point.curve for point in points):
        found = [point.measurement for point in points if point.curve == curve]
        passes, accuracy = [m.forward_passes for m in found], [m.accuracy for m in found]
        x_bars = [[m.forward_passes - m.passes_low for m in found], [m.passes_high - m.forward_passes for m in found]]
        y_bars = [[m.accuracy - m.accuracy_low for m in found], [m.accuracy_high - m.accuracy for m in found]]
        grey = styles[curve] is GREY
        drawn = axes.errorbar(passes, accuracy, y_bars, x_bars, label="_" * grey + curve, **LINE, **styles[curve])
        for bars in drawn.lines[2]:
            bars.set_alpha(0.4)


def _dress(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator, PercentFormatter

    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("forward passes a problem, log scale")
    axes.set_ylabel("accuracy")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.label_outer()
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _shape(panels: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """(rows, columns): a row a task where there are several block lengths, else two panels a row."""
    first_task = sum(task == panels[0][0] for task, _ in panels)
    columns = first_task if first_task > 1 else min(2, len(panels))
    return -(-len(panels) // columns), columns


def _draw_front(axes: "Axes", points: Sequence[Point]) -> None:
    """What the best of these schedulers reaches in as many passes or fewer; curves are named where they end, the best
    two of those that end together."""
    best: list[Measurement] = []
    for found in sorted((p.measurement for p in points), key=lambda m: (m.forward_passes, -m.accuracy)):
        if not best or found.accuracy > best[-1].accuracy:
            best.append(found)
    passes, accuracy = [m.forward_passes for m in best], [m.accuracy for m in best]
    axes.plot(passes, accuracy, label="the best scheduler that is no policy", **FRONT)
    named: list[tuple[float, float]] = []
    ends = {p.curve: p for p in sorted(points, key=lambda p: p.measurement.forward_passes)}.values()
    for last in sorted(ends, key=lambda p: -p.measurement.accuracy):
        x, y = last.measurement.forward_passes, last.measurement.accuracy
        near = sum(abs(math.log10(x / x_2)) < APART[0] and abs(y - y_2) < APART[1] for x_2, y_2 in named)
        if near < NAMES:
            axes.annotate(last.curve, (x, y), (4, -LINE_HEIGHT * near), textcoords="offset points", **NAME)
            named.append((x, y))


def _policies(points: Iterable[Point]) -> list[str]:
    """The curves that are policies, if others are not."""
    found = dict.fromkeys(point.curve for point in points if point.measurement.scheduler == POLICY)
    return list(found) if any(point.curve not in found for point in points) else []


def _styles(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each curve; eight colours and nine markers give 72 pairs before one comes again."""
    curves, policies = list(dict.fromkeys(point.curve for point in points)), _policies(points)
    coloured = {
        curve: {"color": colour, "marker": marker}
        for curve, colour, marker in zip(
            policies or curves, cycle(COLOURS[bool(policies) :]), cycle(MARKERS), strict=False
        )
    }
    return {curve: coloured.get(curve, GREY) for curve in curves}


def _title(points: Sequence[Point]) -> str:
    first = points[0].measurement
    return f"{first.model}, {first.problems} held-out problems a point; bars are 95 % intervals"
