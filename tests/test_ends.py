"""`unmask serve` ends when it is to, whatever hangs in it: a step, a chat template, a download."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live import PATIENCE, named_events, wait_for
from tests.process import PROGRAM, answers, free_port, serving
from tests.synthetic import synthetic_llada

# Whoever waits for a step waits for ever; and steps hang from when the file exists that the environment names.
HANGING = """
import os, time
import unmask.engine.service
from unmask.engine.engine import Engine
unmask.engine.service.STOP_SECONDS = 10**6
run = Engine._run
def hang(self, *step):
    while os.path.exists(os.environ["LOST"]):
        time.sleep(0.01)
    return run(self, *step)
Engine._run = hang
"""
# A download in threads for which Python waits, as the Hub's.
DOWNLOADING = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
import unmask.server.backend
def load_configured(*arguments):
    with ThreadPoolExecutor() as pool:
        pool.submit(threading.Event().wait).result()
unmask.server.backend.load_configured = load_configured
"""
COMMAND = "from unmask.cli import main; main(['serve'])"  # which turns errors into exit codes
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LONG = {"prompt": "hello", "max_tokens": 200, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@contextmanager
def served(folder: Path, program: str = PROGRAM, **settings: Any) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """(process, address) once it is ready."""
    port = free_port()
    with serving(synthetic_llada(folder / "tiny"), port, program, **settings) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"))
        yield process, f"http://127.0.0.1:{port}"


@contextmanager
def hung(folder: Path, **settings: Any) -> Iterator[tuple["subprocess.Popen[str]", str, Iterator[tuple[str, Any]]]]:
    """(process, address, later events of a request) of a server whose step does not end."""
    with (
        served(folder, HANGING + PROGRAM, **settings) as (process, url),
        httpx.stream("POST", f"{url}/generate", json=LONG, timeout=PATIENCE) as response,
    ):
        events = named_events(response)
        assert "step" in (name for name, _ in events)
        (folder / "tiny" / "lost").touch()
        yield process, url, events


def test_a_second_signal_waits_for_no_step(tmp_path: Path) -> None:
    with hung(tmp_path) as (process, url, events):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(url))
        process.send_signal(signal.SIGTERM)
        *_, (last, data) = events
        assert (last, data["code"]) == ("error", "stopping")
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_a_step_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    with hung(tmp_path, step_timeout=2) as (process, _, events):
        *_, (last, data) = events
        assert (last, data["code"]) == ("error", "stopping")
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "a step has taken more than 2 seconds" in log.splitlines()[-1]


@pytest.mark.parametrize("signals", [False, True])
def test_a_chat_template_that_never_ends_holds_nothing_up(tmp_path: Path, signals: bool) -> None:
    template = tmp_path / "loop.jinja"
    template.write_text(LOOP)
    how: dict[str, Any] = {"chat_template": template} | ({} if signals else {"step_timeout": 2})
    with served(tmp_path, **how) as (process, url), ExitStack() as stack:
        body = {**CHAT, "timeout": 0.5}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE).status_code == 408
        assert httpx.post(f"{url}/generate", json={"prompt": "a", "max_tokens": 2}, timeout=PATIENCE).is_success
        stuck = stack.enter_context(closing(HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)))
        stuck.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"Content-Type": "application/json"})
        if signals:
            assert httpx.get(f"{url}/metrics").is_success  # it came later, so the other is there
            process.send_signal(signal.SIGTERM)
        response = stuck.getresponse()
        assert (response.status, json.load(response)["error"]["code"]) == (503, "stopping")
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == (0 if signals else 1)
    assert signals or "rendering the chat template, has taken more than 2 seconds" in log.splitlines()[-1]


def test_a_download_is_not_waited_for(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, port, DOWNLOADING + PROGRAM) as process:
        wait_for(lambda: listens(port))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


def test_a_port_in_use_ends_it_with_3_also_while_it_downloads(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        serving(tmp_path, taken.getsockname()[1], DOWNLOADING + COMMAND) as process,
    ):
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 3, log
    assert "Address already in use" in log
    assert "Traceback" not in log


def listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health").is_success
    except httpx.TransportError:
        return False
