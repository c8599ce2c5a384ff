"""What of docs/schedulers-compared.md is written by machine: its tables, from the points of the sweep beside it.
`python -m tests.compared_page` writes them anew; a test finds out if that is due."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from unmask.evals.measure import Measurement, label
from unmask.evals.report import aups
from unmask.evals.sweep import Point, read_points

PAGE = Path(__file__).parents[1] / "docs" / "schedulers-compared.md"
POINTS = PAGE.with_suffix(".json")
EVERY = (32, 128)  # block lengths at which every setting is measured
PART = re.compile(r"(<!-- (points|curves|lengths) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def render(page: str) -> str:
    """The page with its tables as the points have them now."""
    parts, points = {"points": points_table, "curves": curves_table, "lengths": lengths_table}, read_points(POINTS)
    return PART.sub(lambda found: f"{found[1]}\n{parts[found[2]](points)}\n{found[3]}", page)


def points_table(points: Sequence[Point]) -> str:
    """Each setting of a scheduler, in blocks and in one block."""
    panels = _panels(points, EVERY)
    return _settings(panels, _by_setting(points))


def lengths_table(points: Sequence[Point]) -> str:
    """The settings that were measured in blocks of every length."""
    panels = _panels(points)
    return _settings(panels, {name: found for name, found in _by_setting(points).items() if {*found} == {*panels}})


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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
