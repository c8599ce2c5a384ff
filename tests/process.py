"""A server as a process of its own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.live import PATIENCE

PROGRAM = """
from unmask.server.serve import serve
from unmask.server.settings import ServeSettings
raise SystemExit(serve(ServeSettings()))
"""


@contextmanager
def serving(
    model: Path, port: int, program: str = PROGRAM, log: int = subprocess.PIPE, **settings: object
) -> Iterator["subprocess.Popen[str]"]:
    """The process, configured by its environment. Whoever lets it log much must read it, or give it another `log`."""
    settings = {"model": model, "port": port, "device": "cpu", "shutdown_seconds": PATIENCE} | settings
    variables = {f"UNMASK_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**os.environ, **variables, "LOST": str(model / "lost")}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment, stderr=log, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=PATIENCE).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
