"""The wheel holds one top-level name, so that nothing of ours meets a package or a file of somebody else's."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.sizes import ROOMS, ROOT
from unmask.models.presets import preset_names

STRANGE = 'raise RuntimeError("a stranger\'s module")'
ENTRY = "from unmask.cli import main; main()"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, as building leaves its products beside what it builds
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    build = [*pip, "--wheel-dir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, installed over packages that own the names of all rooms."""
    site = tmp_path_factory.mktemp("site")
    strangers(site)
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with files of all the names that rooms have."""
    strangers(tmp_path)
    for room in ROOMS:
        (tmp_path / f"{room}.py").write_text(STRANGE)
    return tmp_path


def strangers(folder: Path) -> None:
    for room in ROOMS:
        (folder / room).mkdir()
        (folder / room / "__init__.py").write_text(STRANGE)


def run(command: list[str], folder: Path, site: Path) -> str:
    """What a command prints that is run in a folder, with the site in front of all that is installed."""
    environment = {**os.environ, "PYTHONPATH": str(site), "UNMASK_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_has_one_top_level_name(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"unmask"}


def test_wheel_holds_what_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    data = ("py.typed", "evals/sweeps/heuristics.toml", "server/static/index.html", "weights/llada-nano/config.json")
    presets = {f"models/presets/{name}.toml" for name in preset_names()}
    assert {f"unmask/{name}" for name in (*data, *presets)} <= names
    assert len(presets) > 30


def test_old_names_are_left_to_others(site: Path) -> None:
    assert all((site / room / "__init__.py").read_text() == STRANGE for room in ROOMS)


@pytest.mark.parametrize(
    "start", [["-m", "unmask"], ["-c", ENTRY], ["-m", "accelerate.commands.launch", "--cpu", "-m", "unmask"]]
)
def test_commands_run_in_a_folder_with_all_the_old_names(start: list[str], folder: Path, site: Path) -> None:
    assert "threshold" in run([sys.executable, *start, "schedulers"], folder, site)


def test_generating_runs_there_too(folder: Path, site: Path) -> None:
    command = [sys.executable, "-m", "unmask", "generate", "2 + 3 =", "--raw", "--max-tokens", "8"]
    assert run(command, folder, site)


def test_the_benchmark_starts_its_server_there(folder: Path, site: Path) -> None:
    flags = [
        "--http",
        "--requests",
        "2",
        "--rounds",
        "1",
        "--concurrency",
        "1",
        "--scheduler",
        "threshold",
        "--max-tokens",
        "8",
    ]
    assert "http" in run([sys.executable, "-m", "unmask", "bench", *flags], folder, site)
