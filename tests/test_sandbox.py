"""The sandbox: only a program that comes to its end passes, and none outlives, outgrows or leaves it."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from evals import sandbox
from evals.sandbox import Limits, SandboxError, run

TEST = "assert double(21) == 42"


def test_a_right_solution_passes_and_a_wrong_one_does_not() -> None:
    assert run(["def double(n):\n    return 2 * n", TEST])
    assert not run(["def double(n):\n    return n + 2", TEST])
    assert not run(["def double(n) return 2 * n", TEST])


@pytest.mark.parametrize(
    "way_out",
    [
        "import sys; sys.exit(0)",
        "exit()",
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "raise SystemExit",
        "def double(n):\n    raise SystemExit(0)",
        "'''",
        "if False:",
        "def double(n): return 42 \\",
    ],
)
def test_leaving_before_the_tests_does_not_pass(way_out: str) -> None:
    assert not run([way_out, TEST])


def test_an_open_string_does_not_swallow_the_tests() -> None:
    assert not run(["'''", "raise ValueError\n'''"])


@pytest.mark.parametrize(
    "loop", ["while True: pass", "import time; time.sleep(60)", "while True:\n try: 1/0\n except: pass"]
)
def test_an_endless_run_ends_at_the_limit(loop: str) -> None:
    started = time.monotonic()
    assert not run([loop], Limits(seconds=1.0))
    assert time.monotonic() - started < 5


def test_memory_is_limited() -> None:
    assert run(["data = bytearray(100 << 20)"])
    assert not run(["data = bytearray(100 << 20)"], Limits(memory=100 << 20))
    assert run(["try: data = bytearray(8 << 30)\nexcept MemoryError: pass\nelse: raise ValueError"])


def test_no_process_is_started() -> None:
    """The bomb counts to five only, should nothing hold it."""
    bomb = "import os\nfor _ in range(5):\n    try: os.fork()\n    except OSError: pass\n    else: raise SystemExit"
    assert run([bomb])
    refused = "import subprocess\ntry: subprocess.run(['true'])\nexcept OSError: pass\nelse: raise ValueError"
    assert run([refused])
    assert run(["import resource", "assert resource.getrlimit(resource.RLIMIT_NPROC) == (0, 0)"])


CONNECT = """
import socket
try: socket.create_connection(("127.0.0.1", {port}), timeout=1)
except OSError: pass
"""


def test_a_listener_on_this_machine_is_not_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        assert run([CONNECT.format(port=port)])
        with pytest.raises(TimeoutError):
            listener.accept()
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()  # it did wait


@pytest.mark.parametrize("number", [1, 2])
def test_a_flood_of_output_goes_nowhere(number: int) -> None:
    assert run([f"import os\nfor _ in range(2000): os.write({number}, b'x' * 100_000)"])


def test_files_are_written_in_its_own_folder_only(tmp_path: Path) -> None:
    assert run(["open('note', 'w').write('x')", "assert open('note').read() == 'x'"])
    kept = tmp_path / "kept"
    kept.write_text("kept")
    for attempt in (f"open({str(kept)!r}, 'w')", f"import os; os.remove({str(kept)!r})", "open('../over', 'w')"):
        assert not run([attempt])
    assert kept.read_text() == "kept"
    assert not run(["open('large', 'wb').write(bytes(2 << 20))"])


def test_environment_and_input_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert run(["import os", "assert 'SECRET' not in os.environ", "import sys", "assert sys.stdin.read() == ''"])


def test_its_folder_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(["open('note', 'w').write('x')"])
    assert os.listdir(tmp_path) == []


def test_what_answers_use_works() -> None:
    """Dataclasses look their module up, and an answer's main() stays asleep."""
    assert run(
        [
            "from __future__ import annotations\nfrom dataclasses import dataclass",
            "@dataclass\nclass Point:\n    x: 'int'\n    y: int = 0",
            "if __name__ == '__main__':\n    raise ValueError",
            "import collections, concurrent.futures, decimal, fractions, heapq, itertools, random, string, typing",
            "assert Point(1) == Point(1, 0)",
        ]
    )


def test_a_machine_that_runs_nothing_is_told_apart_from_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    sandbox._check.cache_clear()
    with pytest.raises(SandboxError, match=r"cannot be run here: .*/bin/false"):
        run([])
