"""The sandbox: only a program that comes to its end passes, and none outlives or outgrows it."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from tests.live import PATIENCE, wait_for
from unmask.evals import sandbox
from unmask.evals.sandbox import Limits, SandboxError, run, run_all

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
    """Nothing else would end the first and the last, and the second would pass."""
    assert not run([loop], Limits(seconds=1.0, cpu=600))


def test_an_endless_loop_ends_by_the_time_that_it_computes() -> None:
    assert not run(["while True: pass"], Limits(seconds=600, cpu=1))
    ignored = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)"
    assert not run([ignored, "while True: pass"], Limits(seconds=600, cpu=1))


def runs_of(parent: int) -> list[psutil.Process]:
    """The process that `parent` runs programs in and its child, once that has computed for long."""
    found: list[psutil.Process] = []

    def computing() -> bool:
        found[:] = psutil.Process(parent).children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            return len(found) == 2 and found[1].cpu_times().user > 0.5
        return False

    wait_for(computing)
    return found


ENDLESS = Limits(seconds=600, cpu=600)


def test_a_run_ends_with_who_started_it() -> None:
    program = "from unmask.evals.sandbox import Limits, run; run(['while True: pass'], Limits(seconds=600, cpu=600))"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        runs = runs_of(parent.pid)
        parent.kill()
    psutil.wait_procs(runs, timeout=PATIENCE)
    assert not any(run.is_running() for run in runs)


LOST = {
    "wrong": "def double(n):\n    return n + 2",
    "loop": "while True: pass",
    "exit": "import sys; sys.exit(0)",
    "os exit": "import os; os._exit(0)",
    "no exit": "import os\nos._exit = print\nraise ValueError",
    "crash": "import sys; sys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()",
    "fork": "import os\nfor _ in range(5): os.fork()",
    "kill": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "kill all": "import os, signal; os.kill(0, signal.SIGKILL)",
    "memory": "data = [bytearray(1 << 20) for _ in range(1 << 20)]",
    "output": "import os\nfor file in range(99):\n try: os.write(file, b'+' * 99)\n except OSError: pass\n1/0",
    "close": "import os\nos.closerange(0, 100)",
}


def test_a_program_that_goes_wrong_loses_only_itself() -> None:
    right = "def double(n):\n    return 2 * n"
    programs = [[source, TEST] for lost in LOST.values() for source in (right, lost)]
    assert run_all(programs, Limits(cpu=1)) == [True, False] * len(LOST)


def test_verdicts_come_in_the_order_of_the_programs() -> None:
    """However the programs are shared among processes."""
    wanted = [i % 3 == 0 for i in range(3 * sandbox.SHARE)]
    assert run_all([[f"assert {right}"] for right in wanted]) == wanted
    assert run_all([]) == []


def test_a_process_that_dies_loses_only_the_program_that_it_was_at() -> None:
    with ThreadPoolExecutor(1) as pool:
        verdicts = pool.submit(run_all, [["pass"], ["while True: pass"], ["pass"]], ENDLESS)
        runs_of(os.getpid())[0].kill()
        assert verdicts.result() == [True, False, True]


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
    assert not run(["import threading; threading.Thread(target=print).start()"])


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


def test_environment_and_input_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert run(["import os", "assert 'SECRET' not in os.environ", "import sys", "assert sys.stdin.read() == ''"])


def test_what_answers_use_works() -> None:
    """Dataclasses look their module up, and an answer's main() stays asleep."""
    assert run(
        [
            "from __future__ import annotations\nfrom dataclasses import dataclass",
            "@dataclass\nclass Point:\n    x: 'int'\n    y: int = 0",
            "if __name__ == '__main__':\n    raise ValueError",
            "import asyncio, collections, concurrent.futures, decimal, fractions, hashlib, heapq, itertools, random",
            "import importlib.util, inspect, re, string, subprocess, tempfile, typing, unittest, zoneinfo",
            "assert hashlib.md5(b'').hexdigest()[:4] == 'd41d' and open(string.__file__).read()",
            "assert Point(1) == Point(1, 0)",
        ]
    )


def test_a_machine_that_runs_nothing_is_told_apart_from_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    sandbox._check.cache_clear()
    with pytest.raises(SandboxError, match=r"cannot be run on this system: .*/bin/false"):
        run([])
