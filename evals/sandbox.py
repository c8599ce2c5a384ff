"""Run generated code against tests: in a process of its own, for a short while, with little to reach.

`run(parts)` starts this very file with `python -I` and an empty environment in a temporary folder. The child gives up
what it can, then executes the parts one after another in one module. Only a run that comes to the end of the last
part counts: an exception, `sys.exit`, `os._exit` and a kill do not.

This is a seat belt against code that a model got wrong, not a jail for code that means harm. On Linux

  held by the kernel         wall-clock time (the whole process group is killed), CPU time, memory, size of a file,
                             number of processes and threads (but root's are not counted by Linux)
  held where the kernel      no network, by an empty network namespace: it needs user namespaces, which some
  allows it                  containers forbid
  held by the interpreter    no sockets, no new processes, no signals, no loading of libraries, no change of files
                             outside the temporary folder. Native code of an extension module can evade this

and nothing else is: files can be read, and code that looks for the tests or for the proof of success in its own
process finds them. Give a stranger's code a container or a virtual machine.
"""

import ctypes
import functools
import json
import math
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of Linux's sched.h; in `os` from Python 3.12 on
REFUSED = ("ctypes.", "fcntl.", "os.", "pty.", "resource.", "shutil.", "signal.", "socket.", "subprocess.")
HARMLESS = ("os.fwalk", "os.listdir", "os.putenv", "os.scandir", "os.unsetenv", "os.walk")  # imports need some of them
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class SandboxError(RuntimeError):
    """Nothing can be run here, so that no answer can be graded."""


@dataclass(frozen=True)
class Limits:
    """What a run may use.

    seconds     of wall-clock time, the start of the interpreter included
    memory      bytes of address space
    file_bytes  bytes of any one file that it writes
    """

    seconds: float = 10.0
    memory: int = 1 << 30
    file_bytes: int = 1 << 20


LIMITS = Limits()


def run(parts: Sequence[str], limits: Limits = LIMITS) -> bool:
    """Whether these pieces of source, executed one after another, come to their end within the limits.

    Each is compiled alone, so that an open bracket or string of one cannot swallow the next.

    Raises SandboxError where not even an empty program comes to its end.
    """
    _check()
    return _run(parts, limits)


@functools.cache
def _check() -> None:
    """Find out once whether programs run here, lest every answer be graded wrong."""
    if not _run(["import collections, math, re, typing"], LIMITS):
        raise SandboxError(
            f"generated code cannot be run here: an empty program does not come to its end under {sys.executable} -I "
            "with an empty environment; use a Python that starts so, on Linux"
        )


def _run(parts: Sequence[str], limits: Limits) -> bool:
    proof = secrets.token_hex(16)  # the name of a file that only a run to the end leaves behind
    job = json.dumps({"parts": list(parts), "proof": proof, "limits": asdict(limits)})
    with tempfile.TemporaryDirectory(prefix="unmask-", ignore_cleanup_errors=True) as folder:
        with subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process:
            try:
                process.communicate(job.encode(), limits.seconds)
            except subprocess.TimeoutExpired:
                return False
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # the whole session, whoever is left of it
        return (Path(folder) / proof).exists()


def _inside() -> NoReturn:
    """What the child does: read the job, give up what it can, execute, leave the proof."""
    job = json.load(sys.stdin)
    _limit(Limits(**job["limits"]))
    _leave_network()
    proof = Path(job["proof"]).absolute()
    module = ModuleType("answer")  # not __main__: an answer's own main() stays asleep
    sys.modules["answer"] = module  # where dataclasses look it up
    sys.addaudithook(functools.partial(_refuse, os.getcwd() + os.sep))
    for part in job["parts"]:
        exec(compile(part, "<answer>", "exec"), module.__dict__)
    proof.touch()
    os._exit(0)  # without what the program left to be done at the end


def _limit(limits: Limits) -> None:
    """Bind this process; a limit once lowered stays so."""
    seconds = math.ceil(limits.seconds)
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NPROC, 0),  # no further process or thread
    ):
        resource.setrlimit(kind, (most, most))


def _leave_network() -> None:
    """Enter a network namespace with no device in it, where the kernel lets us; root's powers end there as well."""
    with suppress(AttributeError):  # no Linux
        ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)


def _refuse(folder: str, event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578), which cannot be taken off: no way out of this process but files of its folder."""
    if event == "open":
        path, _, flags = args
        if flags & WRITES and not isinstance(path, int) and not os.path.realpath(os.fsdecode(path)).startswith(folder):
            raise PermissionError(f"generated code may not write {path!r}")
    elif event.startswith(REFUSED) and event not in HARMLESS:
        raise PermissionError(f"generated code may not use {event}")


if __name__ == "__main__":
    _inside()
