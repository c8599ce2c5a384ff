"""What of docs/schedulers-compared.md and docs/ground.md is written by machine: tables, from the points of the sweeps
beside them. `python -m tests.compared_page` writes them anew; a test finds out if that is due."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from unmask.evals.measure import Measurement, label
from unmask.evals.report import aups
from unmask.evals.sweep import Point, read_points

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "schedulers-compared.md", DOCS / "ground.md")
EVERY = (32, 128)  # block lengths at which every setting is measured
PART = re.compile(r"(<!-- (\w+) of ([\w.-]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def render(page: Path) -> str:
    """The page with its tables as the points have them now."""
    return PART.sub(
        lambda found: f"{found[1]}\n{TABLES[found[2]](read_points(DOCS / found[3]))}\n{found[4]}", page.read_text()
    )


def points_table(points: Sequence[Point]) -> str:
    """Each setting of a scheduler, in blocks and in one block."""
    panels = _panels(points, EVERY)
    return _settings(panels, _by_setting(points))


def lengths_table(points: Sequence[Point]) -> str:
    """The settings that were measured in blocks of every length."""
    panels = _panels(points)
    return _settings(panels, {name: found for name, found in _by_setting(points).items() if {*found} == {*panels}})


def styles_table(points: Sequence[Point]) -> str:
    """Accuracy in passes, tokens before the end of text and the share of plain answers, in blocks and in one block."""
    panels = _panels(points, EVERY)
    cells = [
        [f"`{name}`", *(part for length in panels for part in _styled(found[length]))]
        for name, found in _by_setting(points).items()
    ]
    titles = [part for panel in panels.values() for part in (_title(panel), "tokens", "line by line")]
    return _table(["scheduler", *titles], cells)


def tasks_table(points: Sequence[Point]) -> str:
    """A row for each setting in blocks and in one block; of each task what `_styled` says, with the bare answers."""
    tasks = list(dict.fromkeys(point.measurement.task for point in points))
    names = list(dict.fromkeys(label(point.measurement) for point in points))
    found = {(label(m), m.block_length, m.task): m for m in (point.measurement for point in points)}
    rows = [
        [f"`{name}`", _title(panel), *(part for task in tasks for part in _styled(found[name, length, task], "bare"))]
        for name in names
        for length, panel in _panels(points, EVERY).items()
    ]
    return _table(["scheduler", "block", *(part for task in tasks for part in (task, "tokens", "bare"))], rows)


def curves_table(points: Sequence[Point]) -> str:
    """The AUP of each curve, best in one block first."""
    panels = _panels(points, EVERY)
    areas = {length: aups(panel) for length, panel in panels.items()}
    names = areas[max(areas)]
    cells = [[name, *(f"{area[name]:,.0f}" if name in area else "" for area in areas.values())] for name in names]
    return _table(["curve", *map(_title, panels.values())], cells)


def _by_setting(points: Sequence[Point]) -> dict[str, dict[int, Measurement]]:
    """What a setting came to, by block length."""
    found: dict[str, dict[int, Measurement]] = {}
    for point in points:
        found.setdefault(label(point.measurement), {})[point.measurement.block_length] = point.measurement
    return found


def _settings(panels: Mapping[int, Sequence[Point]], rows: Mapping[str, Mapping[int, Measurement]]) -> str:
    cells = [[f"`{name}`", *(_cell(found.get(length)) for length in panels)] for name, found in rows.items()]
    return _table(["scheduler", *map(_title, panels.values())], cells)


def _panels(points: Sequence[Point], lengths: Collection[int] = ()) -> dict[int, list[Point]]:
    """The points of each block length, or of these."""
    found: dict[int, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.measurement.block_length):
        if not lengths or point.measurement.block_length in lengths:
            found.setdefault(point.measurement.block_length, []).append(point)
    return found


def _title(panel: Sequence[Point]) -> str:
    m = panel[0].measurement
    return "full diffusion" if m.block_length == m.max_tokens else f"blocks of {m.block_length}"


def _cell(m: Measurement | None) -> str:
    if m is None:
        return ""
    low, high = 100 * m.accuracy_low, 100 * m.accuracy_high
    return f"{100 * m.accuracy:.1f} % ({low:.0f}-{high:.0f}) in {m.forward_passes:.1f}"


def _styled(m: Measurement, style: str = "plain") -> tuple[str, str, str]:
    share = m.styles.get(style, [0.0])[0]
    return f"{100 * m.accuracy:.1f} % in {m.forward_passes:.1f}", f"{m.answer_tokens:.0f}", f"{100 * share:.0f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


TABLES = {
    "points": points_table,
    "curves": curves_table,
    "lengths": lengths_table,
    "styles": styles_table,
    "tasks": tasks_table,
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(render(page))
