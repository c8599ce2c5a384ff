"""docs/schedulers-compared.md: its tables are those of its points, which are those of the shipped sweep."""

from tests.compared_page import PAGE, POINTS, render
from unmask.evals.measure import label
from unmask.evals.sweep import read_points
from unmask.evals.sweep_file import read_sweep
from unmask.schedulers import scheduler_names


def test_tables_are_up_to_date() -> None:
    """If not: `python -m tests.compared_page` writes them anew."""
    page = PAGE.read_text()
    assert render(page) == page
    assert all(f"| `{label(point.measurement)}` |" in page for point in read_points(POINTS))


def test_every_scheduler_is_there() -> None:
    assert {point.measurement.scheduler for point in read_points(POINTS)} == {*scheduler_names()}
    assert {curve.schedulers[0].name for curve in read_sweep("all").curves} == {*scheduler_names()}


def test_a_point_is_measured_once() -> None:
    measured = [(label(point.measurement), point.measurement.block_length) for point in read_points(POINTS)]
    assert len({*measured}) == len(measured)
