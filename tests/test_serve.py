"""`unmask serve` as a process: what it logs, and how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.live import PATIENCE, named_events, wait_for
from tests.process import PROGRAM, answers, free_port, serving
from tests.synthetic import synthetic_llada
from unmask.server.settings import ServeSettings

# The same, with a model that is lost as soon as the file exists that the environment names.
FRAGILE = """
import os
from unmask.engine.engine import Engine
run = Engine._run
Engine._run = lambda self, *step: 1 / 0 if os.path.exists(os.environ["LOST"]) else run(self, *step)
"""
KEY = {"Authorization": "Bearer b"}
LONG = {"prompt": "hello", "max_tokens": 400, "stream": True}


def test_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    with serving(tmp_path, free_port()) as process:
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "config.json" in log.splitlines()[-1]
    assert "Traceback" not in log


@contextmanager
def busy(
    folder: Path, program: str = PROGRAM, **settings: Any
) -> Iterator[tuple["subprocess.Popen[str]", str, Iterator[tuple[str, Any]]]]:
    """(process, address, later events of a long request that runs)."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(synthetic_llada(folder / "tiny", max_sequence_length=1024), port, program, **settings) as process:
        wait_for(lambda: answers(url))
        with httpx.stream("POST", f"{url}/generate", json=LONG, headers=KEY, timeout=PATIENCE) as response:
            events = named_events(response)
            assert "step" in (name for name, _ in events)
            yield process, url, events


def test_signal_lets_requests_end_and_refuses_others(tmp_path: Path) -> None:
    with busy(tmp_path) as (process, url, events):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(url))
        refused = httpx.post(f"{url}/generate", json={"prompt": "a"}, timeout=PATIENCE)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/health", timeout=PATIENCE).status_code == httpx.codes.OK
        *_, (last, data) = events
        assert (last, len(data["token_ids"])) == ("done", 400)
        _, log = process.communicate(timeout=PATIENCE)
    assert f"serving tiny at {url}, on cpu in " in log
    assert f"1 requests may end within {PATIENCE:.0f} seconds" in log
    assert process.returncode == 0


def test_grace_time_ends(tmp_path: Path) -> None:
    with busy(tmp_path, shutdown_seconds=0) as (process, _, events):
        process.send_signal(signal.SIGTERM)
        *_, (last, data) = events
        assert (last, data["code"]) == ("error", "stopping")
        assert process.wait(PATIENCE) == 0


def test_second_signal_ends_a_server_at_once(tmp_path: Path) -> None:
    with busy(tmp_path) as (process, url, events):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: not answers(url))
        process.send_signal(signal.SIGTERM)
        *_, (last, data) = events
        assert (last, data["code"]) == ("error", "stopping")
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_log_is_json_if_asked_and_holds_no_text_of_a_client(tmp_path: Path) -> None:
    secret = "swordfish"
    bodies: list[dict[str, Any]] = [
        {"prompt": secret},
        {"prompt": secret, "stream": True},
        {"messages": [{"role": "user", "content": secret}]},
        {"prompt": secret, "max_tokens": secret},
        {"prompt": secret, secret: secret},
        {"prompt": secret, "scheduler": secret, "policy": secret, "stop": [secret]},
    ]
    with busy(tmp_path, program=FRAGILE + PROGRAM, log_format="json", default_max_tokens=64, api_key=f"{secret},b") as (
        process,
        url,
        events,
    ):
        for path in ("/generate", "/v1/completions"):
            for body in bodies:
                httpx.post(url + path, json=body, headers={"X-Request-Id": "mine", **KEY}, timeout=PATIENCE)
        httpx.get(f"{url}/{'x' * 1000}?{secret}", headers=KEY, timeout=PATIENCE)
        (tmp_path / "tiny" / "lost").touch()
        assert "error" in (name for name, _ in events)
        _, log = process.communicate(timeout=PATIENCE)
    entries = [json.loads(line) for line in log.splitlines()]
    answered = [entry for entry in entries if entry.get("request_id") == "mine"]
    assert [(entry["path"], entry["status"]) for entry in answered[:2]] == [("/generate", 200)] * 2
    assert len(answered) == 2 * len(bodies)
    assert answered[0]["method"] == "POST"
    assert answered[0]["seconds"] > 0
    assert any("ZeroDivisionError" in entry.get("exception", "") for entry in entries)
    assert secret not in log


def test_lost_model_ends_the_process(tmp_path: Path) -> None:
    with busy(tmp_path, program=FRAGILE + PROGRAM) as (process, _, events):
        (tmp_path / "tiny" / "lost").touch()
        *_, (last, data) = events
        assert (last, data["code"]) == ("error", "engine_failed")
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "its engine has ended" in log.splitlines()[-1]


def test_unknown_default_scheduler_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown scheduler 'best'; the schedulers are: "):
        ServeSettings(default_scheduler="best")


def test_unknown_default_cache_is_refused() -> None:
    with pytest.raises(ValidationError, match="cache 'large' is unknown; the caches are: none, prefix, dual, block"):
        ServeSettings(cache="large")


def test_wire_types_need_no_torch() -> None:
    program = "import sys, server.wire.generate; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)
