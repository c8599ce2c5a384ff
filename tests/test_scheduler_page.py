"""docs/schedulers.md says what a scheduler meets, and the package that it writes works as it says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from tests.api_page import EXAMPLE, asking, render, stable
from tests.live import ANSWER, PATIENCE, QUESTION, wait_for
from tests.process import answers, free_port, serving
from unmask import weights
from unmask.schedulers import Decision, Needs, View

PAGE = Path(__file__).parents[1] / "docs" / "schedulers.md"
FILE = re.compile(r"```\w+\n# (sure-or-surest/\S+)\n(.*?)```", re.DOTALL)
NAME = "sure-or-surest"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


@pytest.fixture(scope="module")
def site(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages: the page's, from the files that stand on it, and one that cannot be imported."""
    folder = tmp_path_factory.mktemp("page")
    for name, content in FILE.findall(page):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--target", str(folder / "site"), str(folder / NAME)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    broken = folder / "site" / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[unmask.schedulers]\nbroken = nowhere:Nothing\n")
    return folder / "site"


@pytest.fixture(scope="module")
def http(site: Path) -> Iterator[httpx.Client]:
    """A client of a server that finds the package, as every server does, by its entry point."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        with serving(weights.HERE / "llada-nano", port, log=subprocess.DEVNULL, dtype="float32"):
            wait_for(lambda: answers(url))
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield client


def test_tables_name_every_field(page: str) -> None:
    named = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert named == [field.name for kind in (View, Decision, Needs) for field in fields(kind)]


def test_server_lists_it_with_its_options(page: str, http: httpx.Client) -> None:
    (printed,) = json.loads(re.findall(r"```json\n(\[.*?)```", page, re.DOTALL)[0])
    listed = {one["name"]: one for one in http.get("/v1/schedulers").json()["data"]}
    assert listed[NAME] == printed


def test_answers_are_those_of_the_page(page: str, http: httpx.Client) -> None:
    assert len(EXAMPLE.findall(page)) == 2
    assert stable(render(page, asking(http))) == stable(page)


def test_it_runs_beside_another_scheduler(http: httpx.Client) -> None:
    question = {"messages": [{"role": "user", "content": QUESTION}]}
    slow = {**question, "max_tokens": 400, "block_length": 400, "scheduler": "topk", "stream": True}
    with http.stream("POST", "/generate", json=slow) as response:
        lines = response.iter_lines()  # kept, as the connection ends with it
        assert "event: step" in lines
        beside = http.post("/generate", json={**question, "scheduler": NAME}).json()
        assert "unmask_num_requests_running 1.0\n" in http.get("/metrics").text
    assert (beside["text"], beside["diffusion"]["scheduler"]["name"]) == (ANSWER, NAME)


def test_a_package_that_cannot_be_imported_harms_nobody_else(http: httpx.Client) -> None:
    listed = [one["name"] for one in http.get("/v1/schedulers").json()["data"]]
    assert (NAME in listed, "broken" in listed) == (True, False)
    statuses = [http.post("/generate", json={"prompt": "a", "scheduler": s}).status_code for s in (NAME, "broken")]
    assert statuses == [200, 500]


def test_its_own_tests_pass(site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(site.parent / NAME)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=PATIENCE)
