"""Sweeps: intervals and AR-ness against numbers worked by hand, the form of a file, going on after a stop, pictures."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from unmask import cli
from unmask.engine.ar_ness import global_ar_ness, local_ar_ness
from unmask.evals.aup import Parallel, aup
from unmask.evals.intervals import normal, wilson
from unmask.evals.plot import COLOURS, GREY, MARKERS
from unmask.evals.sweep import SweepError
from unmask.evals.sweep_file import read_sweep

ROUNDING = 1e-6
SMALL = """
tasks = ["sudoku"]
block_lengths = [24, "full"]
problems = 4
[[curves]]
label = "confidence"
scheduler = "topk"
options.n = [24, 48]
[[curves]]
scheduler = "threshold"
options.threshold = [0.0, 0.9]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


def run(*flags: object) -> None:
    cli.main(["eval", "--dtype", "float32", *map(str, flags)])


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (1, 1, 0.2065493, 1.0)],
)
def test_wilsons_interval(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=ROUNDING)


def test_the_normal_interval_is_from_the_sample_deviation() -> None:
    reach = 1.959964 * (5 / 3) ** 0.5 / 2  # of 1, 2, 3, 4 the squares of the deviations are 5 in sum
    assert normal([1, 2, 3, 4]) == pytest.approx((2.5 - reach, 2.5 + reach), abs=ROUNDING)
    assert normal([7]) == (-float("inf"), float("inf"))


@pytest.mark.parametrize(
    ("order", "k", "local", "whole"),
    [
        ([0, 1, 2, 3], 1, 1, 1),
        ([4, 5, 6], 2, 1, 1),
        ([3, 2, 1, 0], 1, 0, 1 / 4),
        ([0, 2, 1, 3], 1, 0, 3 / 4),
        ([0, 2, 1, 3], 2, 0, 1),
        ([0, 1, 2, 4, 5, 3], 1, 3 / 5, 4 / 6),
        ([0, 1, 2, 4, 5, 3], 2, 1 / 4, 1),
        ([5], 1, 1, 1),
        ([], 1, 1, 1),
    ],
)
def test_ar_ness(order: list[int], k: int, local: float, whole: float) -> None:
    assert local_ar_ness(order, k) == pytest.approx(local)
    assert global_ar_ness(order, k) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("curve", "area"),
    [
        ([(1, 0.9)], 90),
        ([(3, 0.88), (1, 0.9)], 90 + (82.3247 + 90)),  # e^(-3 (1 - 0.88 / 0.9)) = 0.935507
        ([(1, 0.9), (2, 0.84), (3, 0.88)], 90 + (82.3247 + 90)),  # more than five points below the first
        ([(1, 0.0), (2, 0.0)], 0),
    ],
)
def test_accuracy_under_parallelism(curve: list[tuple[float, float]], area: float) -> None:
    assert aup([Parallel(*point) for point in curve], best=0.9) == pytest.approx(area, abs=1e-3)


def test_a_curve_less_accurate_than_another_counts_less_from_its_first_step_on() -> None:
    curve = [Parallel(1, 0.5), Parallel(2, 0.5)]
    assert aup(curve, best=1.0) == pytest.approx(50 + 50 * 0.223130, abs=1e-3)  # e^-1.5


def test_the_shipped_sweep_goes_over_the_whole_range_of_every_heuristic() -> None:
    sweep = read_sweep("heuristics")
    specs = {curve.label: [spec.values for spec in curve.schedulers] for curve in sweep.curves}
    assert list(specs) == ["threshold", "factor", "eb", "klass", "topk", "margin", "entropy", "random"]
    for name in ("random", "topk", "margin", "entropy"):
        assert [values["n"] for values in specs[name]][:: len(specs[name]) - 1] == [1, 64]
    assert [values["threshold"] for values in specs["threshold"]][:: len(specs["threshold"]) - 1] == [1, 0]
    assert len(sweep.curves) <= min(len(COLOURS), len(MARKERS))  # no colour twice


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[curves]]", "[[curves", "Expected"),
        ('"sudoku"', '"chess"', "unknown task 'chess'; the tasks are: word-problems, sudoku"),
        ("problems = 4", "problems = 1", "problems: Input should be greater than or equal to 2, not 1"),
        ("problems = 4", "", "problems: Field required"),
        ('[24, "full"]', '[24, "full"]\nblocks = 3', "blocks: Extra inputs are not permitted, not 3"),
        ("[24,", "[0,", "block_lengths.0: Input should be greater than or equal to 1, not 0"),
        (
            'scheduler = "topk"',
            'scheduler = "top"',
            "unknown scheduler 'top'; did you mean 'topk'? The schedulers are: ada-block, ",
        ),
        ("options.n", "options.k", "unknown option 'k'; the options are: n, steps"),
        ("[24, 48]", "[]", "option 'n' of scheduler 'topk' has no values; give some"),
        ("options.threshold", "threshold", "curves.1.threshold: Extra inputs are not permitted"),
    ],
)
def test_a_bad_sweep_is_refused_by_name(
    sweep: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(SweepError, match=r"small\.toml: .*"):
        read_sweep(str(sweep))
    with pytest.raises(SystemExit, match="1"):
        run("--sweep", sweep)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep", "heuristics", "--scheduler", "topk"], "--sweep and --scheduler exclude each other"),
        (["--sweep", "nothing"], "sweep 'nothing' is no file and no shipped sweep; the shipped ones are: all, blocks"),
        (["--plot", "out.jpg"], "--plot out.jpg must end in .png or .svg"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        run(*flags)
    assert message in capsys.readouterr().err


def test_a_plot_without_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="1"):
        run("--plot", "out.png")
    assert 'pip install "unmask[plot]"' in capsys.readouterr().err


def test_the_generation_region_may_be_longer_than_the_task_needs(sweep: Path) -> None:
    out = sweep.with_name("longer.json")
    run("--sweep", sweep, "--json", out, "--max-tokens", "60", "--block-length", "full")
    assert {(p["max_tokens"], p["block_length"]) for p in lines(out)} == {(60, 60)}
    run("--sweep", sweep, "--json", out, "--block-length", "full")
    assert [p["max_tokens"] for p in lines(out)] == [48] * 4 + [60] * 4  # measured anew


def test_a_sweep_measures_every_point_and_shows_it(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sweep.with_name("out.json")
    run("--sweep", sweep, "--json", out)
    points = lines(out)
    assert [(p["block_length"], p["curve"], *p["options"].values()) for p in points] == [
        (length, *point)
        for length in (24, 48)
        for point in [("confidence", 24, None), ("confidence", 48, None), ("threshold", 0.0), ("threshold", 0.9)]
    ]
    for p in points:
        assert p["accuracy_low"] <= p["accuracy"] <= p["accuracy_high"]
        assert p["passes_low"] <= p["forward_passes"] <= p["passes_high"]
    at_once, careful = points[6], points[7]  # a single pass reveals left to right; else Sudokus are filled anywhere
    assert (at_once["forward_passes"], at_once["local_ar"], at_once["global_ar"]) == (1, 1, 1)
    assert careful["global_ar"] < 1
    shown = capsys.readouterr().out
    assert "sudoku, block 24, cache none" in shown
    assert "threshold:threshold=0.0" in shown
    areas = [
        float(area.replace(",", ""))
        for area in re.findall(r"(?:threshold|confidence) +([\d,]+) ", shown.split("AUP")[-2])
    ]
    assert len(areas) == 2
    assert areas == sorted(areas, reverse=True)


def test_an_interrupted_sweep_goes_on_where_it_stopped(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sweep.with_name("out.json")
    flags = ("--sweep", sweep, "--json", out, "--problems", 2)
    run(*flags)
    whole = lines(out)
    kept = [point | {"tokens_per_second": -1.0} for point in whole if point["curve"] == "threshold"]
    stranger = whole[0] | {"problems": 3}
    out.write_text("".join(json.dumps(point) + "\n" for point in [stranger, *kept]))
    run(*flags)
    resumed = lines(out)
    assert resumed.pop() == stranger  # of another sweep; it stays
    assert [point["tokens_per_second"] == -1 for point in resumed] == [p["curve"] == "threshold" for p in whole]
    assert [p | {"tokens_per_second": 0} for p in resumed] == [p | {"tokens_per_second": 0} for p in whole]
    out.write_text("{}\n")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        run(*flags)
    assert re.search(r"line 1 of .*out\.json is no point of a sweep; delete the file or give", capsys.readouterr().err)


def test_pictures_show_every_curve(sweep: Path) -> None:
    files = [sweep.with_name(name) for name in ("out.png", "out.svg")]
    run("--sweep", sweep, "--problems", 2, "--plot", ",".join(map(str, files)))
    pixels = imread(files[0])[..., :3].reshape(-1, 3)
    for colour in COLOURS[:2]:
        assert (abs(pixels - to_rgb(colour)).max(1) < 0.01).sum() > 100, colour
    drawn = files[1].read_text()
    for text in ("confidence", "threshold", "sudoku, block 24", "sudoku, block 48", "llada-nano, 2 held-out problems"):
        assert text in drawn, text


def test_beside_policies_other_schedulers_are_grey_and_named(sweep: Path) -> None:
    with sweep.open("a") as file:
        file.write('[[curves]]\nlabel = "policy learned elsewhere"\nscheduler = "policy"\noptions.speed = [0.2, 0.8]\n')
    files = [sweep.with_name(name) for name in ("out.png", "out.svg")]
    run("--sweep", sweep, "--problems", 2, "--block-length", "full", "--plot", ",".join(map(str, files)))
    picture = imread(files[0])[..., :3]
    assert picture[:, [0, -1]].min() == 1  # title and legend do not run out of it
    pixels = picture.reshape(-1, 3)
    for colour in (GREY["color"], COLOURS[1]):
        assert (abs(pixels - to_rgb(colour)).max(1) < 0.01).sum() > 100, colour
    assert (abs(pixels - to_rgb(COLOURS[2])).max(1) < 0.01).sum() == 0
    for text in ("confidence", "threshold", "policy learned elsewhere", "the best scheduler that is no policy"):
        assert files[1].read_text().count(f"<!-- {text} -->") == 1, text


def test_input_states_have_curves_of_their_own_and_older_files_have_masks(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sweep.with_name("states.json")
    flags = ("--sweep", sweep, "--json", out, "--block-length", "full", "--problems", 2)
    run(*flags)
    out.write_text("".join(json.dumps({k: v for k, v in p.items() if k != "input_state"}) + "\n" for p in lines(out)))
    run(*flags, "--input-state", "mask,residual:alpha=0.5")
    points = lines(out)
    assert {(p["curve"].partition(", ")[2], p["input_state"]) for p in points} == {
        ("mask", "mask"),
        ("residual:alpha=0.5", "residual:alpha=0.5"),
    }
    assert len(points) == 8
    assert "residual:alpha=0.5" in capsys.readouterr().out
