"""Clients of others, run as their users run them: programs of their own, with no network but the loopback.

Their dependencies and ours exclude each other, so they lie in folders of which one stands in front of the environment's
own packages. `make clients` fills one from tests/clients.txt, `make test-clients` those of tests/agents.txt,
tests/instructor.txt and tests/node.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDERS = Path(sys.prefix)
PATIENCE = 300.0  # seconds for a program; some import half of the world
NOBODY = "http://127.0.0.1:9"  # where whatever wants to phone home is sent


def run(folder: Path, *command: str, packages: str = "clients", target: str = "clients") -> str:
    """What a client writes to its standard output, run in a folder of its own. Fails if it fails.

    packages  the folder of its dependencies, which a target of make fills
    """
    found = FOLDERS / packages
    if not found.exists():
        pytest.fail(f"there are no clients in {found}; install them: make {target}")
    environment = {
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
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout
