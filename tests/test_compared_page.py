"""docs/schedulers-compared.md and docs/ground.md: tables are those of their points, points those of shipped sweeps."""

from pathlib import Path

import pytest

from tests.compared_page import DOCS, PAGES, render
from unmask.evals.measure import label
from unmask.evals.sweep import read_points
from unmask.evals.sweep_file import read_sweep
from unmask.schedulers import scheduler_names

POINTS = {
    "schedulers-compared.md": ["schedulers-compared.json"],
    "ground.md": [
        *("traces.json", "clock.json", "one-block.json", "clock-one-block.json", "words.json"),
        *("blocks-32.json", "ground.json"),
    ],
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_up_to_date(page: Path) -> None:
    """If not: `python -m tests.compared_page` writes them anew."""
    text = page.read_text()
    assert render(page) == text
    for points in POINTS[page.name]:
        assert all(f"| `{label(point.measurement)}` |" in text for point in read_points(DOCS / points))


def test_every_scheduler_is_there() -> None:
    compared = read_points(DOCS / "schedulers-compared.json")
    assert {point.measurement.scheduler for point in compared} == {*scheduler_names()}
    assert {curve.schedulers[0].name for curve in read_sweep("all").curves} == {*scheduler_names()}


@pytest.mark.parametrize("points", [points for found in POINTS.values() for points in found])
def test_a_point_is_measured_once(points: str) -> None:
    found = [point.measurement for point in read_points(DOCS / points)]
    measured = [(label(one), one.block_length, one.task) for one in found]
    assert len({*measured}) == len(measured)
