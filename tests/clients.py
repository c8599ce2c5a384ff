"""Clients of others, run as their users run them: programs of their own, with no network but the loopback.

Their dependencies and ours exclude each other, so they lie in a folder that stands in front of the environment's own
packages; `make clients` fills it from tests/clients.txt.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "clients"
PATIENCE = 300.0  # seconds for a program; some import half of the world
NOBODY = "http://127.0.0.1:9"  # where whatever wants to phone home is sent


def run(folder: Path, *command: str) -> str:
    """What a client writes to its standard output, run in a folder of its own. Fails if it fails."""
    if not FOLDER.exists():
        pytest.fail(f"there are no clients in {FOLDER}; install them: make clients")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(FOLDER / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(FOLDER),
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
