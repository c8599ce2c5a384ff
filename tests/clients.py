"""Clients of others, run as their users run them: programs of their own, with no network but the loopback.

Their dependencies and ours exclude each other, so they lie in folders of which one stands in front of the environment's
own packages. `make clients` fills one from tests/clients.txt, `make test-clients` those of tests/agents.txt,
tests/chat.txt, tests/instructor.txt, tests/llama.txt, tests/proxy.txt, tests/node and tests/promptfoo.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live import QUESTION, Live, live

WEIGHTS = Path(__file__).parents[1] / "weights" / "llada-nano"
FOLDERS = Path(sys.prefix)
PATIENCE = 300.0  # seconds for a program; some import half of the world
NOBODY = "http://127.0.0.1:9"  # where whatever wants to phone home is sent


def run(folder: Path, *command: str, packages: str = "clients", target: str = "clients") -> str:
    """What a client writes to its standard output, run in a folder of its own. Fails if it fails.

    packages  the folder of its dependencies, which a target of make fills
    """
    environment = surroundings(folder, packages, target)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def surroundings(folder: Path, packages: str, target: str) -> dict[str, str]:
    """The environment of a client that runs in a folder."""
    found = FOLDERS / packages
    if not found.exists():
        pytest.fail(f"there are no clients in {found}; install them: make {target}")
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(found / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(found),
        "PYTHONSAFEPATH": "1",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "none",
        **{name: NOBODY for scheme in ("http", "https") for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())},
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextmanager
def taking_tools(folder: Path) -> Iterator[Live]:
    """The embedded model, with a template that takes tools and does not name them, as it has not the room to."""
    template = folder / "short.jinja"
    own = json.loads((WEIGHTS / "tokenizer_config.json").read_text())["chat_template"]
    template.write_text("{% if tools %}{% endif %}" + own)
    with live("llada-nano", chat_template=str(template), default_scheduler="threshold") as running:
        yield running


def told(folder: Path, server: Live, program: str, packages: str) -> dict[str, Any]:
    """The JSON that a program of a client's user writes, who is given the server's address and a question."""
    command = [sys.executable, "-c", program, server.url, QUESTION]
    found: dict[str, Any] = json.loads(run(folder, *command, packages=packages, target="test-clients"))
    return found


def check_pears(form: dict[str, Any]) -> None:
    """That an answer has the form of the classes `Pears` of those programs."""
    assert set(form) == {"owner", "pears"}
    assert (type(form["owner"]), type(form["pears"])) == (str, int)
