"""`unmask serve` as a process: what it logs, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from server.settings import ServeSettings
from tests.live import PATIENCE, named_events, wait_for
from tests.synthetic import synthetic_llada

PROGRAM = """
from server.run import serve
from server.settings import ServeSettings
raise SystemExit(serve(ServeSettings()))
"""
LONG = {"prompt": "hello", "max_tokens": 1000, "stream": True}


@contextmanager
def serving(model: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """The process, configured by its environment."""
    settings = {"UNMASK_MODEL": str(model), "UNMASK_PORT": str(port), "UNMASK_SHUTDOWN_SECONDS": "1"}
    environment = {**os.environ, **settings, "UNMASK_DEVICE": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
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
        return httpx.get(f"{url}/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def test_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    with serving(tmp_path, free_port()) as process:
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "config.json" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_signal_ends_a_server_that_is_busy(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(synthetic_llada(tmp_path / "tiny", max_sequence_length=1024), port) as process:
        wait_for(lambda: answers(url))
        with httpx.stream("POST", f"{url}/generate", json=LONG) as response:
            events = named_events(response)
            assert "step" in (name for name, _ in events)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=PATIENCE)
    assert f"serving tiny at {url}, on cpu in " in log
    assert process.returncode in (0, -signal.SIGTERM)


def test_unknown_default_scheduler_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown scheduler 'best'; the schedulers are: "):
        ServeSettings(default_scheduler="best")


def test_unknown_default_cache_is_refused() -> None:
    with pytest.raises(ValidationError, match="cache 'large' is unknown; the caches are: none, prefix, dual, block"):
        ServeSettings(cache="large")


def test_wire_types_need_no_torch() -> None:
    program = "import sys, server.wire.generate; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
