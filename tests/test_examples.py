"""The examples and docs/python.md: they run, and print what they say."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import PATIENCE
from tests.python_page import EXAMPLE, PAGE, printed, render, stable
from unmask.asking import Fields
from unmask.engine.figures import Figures

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("UNMASK_DEVICE", "cpu")


def run(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that an example prints when it is run as a script."""
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_page_shows_what_its_examples_print() -> None:
    """If not: `python -m tests.python_page` writes it anew."""
    page = PAGE.read_text()
    assert len(EXAMPLE.findall(page)) == page.count("```python") == 8
    assert stable(render(page)) == stable(page)


def test_any_time_is_as_good_as_another() -> None:
    assert stable("took 5e-05, 0.0001, 1.2e-05 or -3.0 of 12") == "took ~, ~, ~ or ~ of 12"


def test_page_names_every_field_and_figure() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = {cell.strip("` ") for row in rows for cell in row[1].split(",")}
    assert Fields.__annotations__.keys() <= named
    (figures,) = (row[2] for row in rows if row[1] == " `diffusion` ")
    assert {cell.strip("` ") for cell in figures.split(",")} == Figures.__annotations__.keys()


def test_offline(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run("offline.py", capsys)
    assert lines[0] == r"'5 + 7 = 12\n12 - 3 = 9\n#### 9': 14 tokens in 1 forward passes"
    right, wrong = (float(line.rpartition(" ")[2]) for line in lines[-2:])
    assert right > -1 > -5 > wrong


def test_own_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    ends = [line.rpartition("}: ")[2] for line in run("own_scheduler.py", capsys)]
    answer = r"'5 + 7 = 12\n12 - 3 = 9\n#### 9'"
    assert ends == [f"{passes} forward passes, {answer}" for passes in (32, 15, 4)]


def test_policy_is_trained_used_and_served(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "train_and_serve_policy.py"), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    *trained, mine, shipped, served = done.stdout.splitlines()
    assert f"wrote model.safetensors, policy.json to {tmp_path}" in trained
    assert mine.startswith(f"policy {tmp_path.name}: ")
    assert shipped.startswith("policy any-speed: ")
    assert served == f"served: {mine.removeprefix(f'policy {tmp_path.name}: ')}"


def test_notebook_draws_the_order() -> None:
    from matplotlib import pyplot as plt

    cells = json.loads((EXAMPLES / "reveal_order.ipynb").read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [cell.get("outputs", []) for cell in cells] == [[]] * len(cells)  # what a run writes is not kept
    namespace = {"__name__": "notebook"}
    lines = "".join(printed(code, namespace) for code in codes).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["topk", "threshold", "random"]
    titles = [axis.get_title(loc="left") for axis in plt.gcf().axes]
    plt.close("all")
    assert titles == [line.partition(",")[0] for line in lines]
