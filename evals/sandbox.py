"""Run generated code against tests: in processes of their own, for a short while, with little to reach.

`run_all(programs)` starts `evals/confinement.py` with `python -I -S`, an empty environment and the standard library
alone. It forks a child for each program, one after another. The child gives up what computing does not need, then
executes the program's parts in one module. Only a program that comes to the end of its last part passes: an
exception, `sys.exit`, `os._exit` and a kill do not, and end the child alone.

  held by the kernel       wall-clock time (the child is killed), CPU time, memory, no byte into any file
  held by Linux, on        no process, no thread, no signal, no socket, no change of any file: system calls other
  x86-64 and AArch64       than those to compute and to read are refused (seccomp, which needs no privilege); the
                           child dies with its parent
  held by the interpreter  the same again, threads apart. An audit event that computing does not need is refused,
                           and so is a module in C that does more than compute. On another system this is all there
                           is, and native code can evade it

This holds code that a model got wrong and code that tries to get out. It does not hold a verdict against a program
that wants to pass: the program and its tests share an interpreter, so that it can find the tests, change what `==`
means to them, or hand in the proof of success itself. Nor does it hide files: the program reads what this user reads,
though it can tell nobody. Run code that you do not trust in a container or a virtual machine.
"""

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass

from unmask.errors import UserError
from unmask.evals import confinement

START_SECONDS = 30.0  # in which the interpreter starts, on a busy machine too
SHARE = 32  # programs: with fewer, a further process is not worth its start

Program = Sequence[str]  # pieces of source; each is compiled alone, so that an open bracket cannot swallow the next


class SandboxError(UserError, RuntimeError):
    """Programs cannot be run, so no answer can be graded."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    seconds  of wall-clock time
    cpu      seconds of CPU time; an endless loop ends by this, however busy the machine is
    memory   bytes of address space
    """

    seconds: float = 10.0
    cpu: int = 3
    memory: int = 1 << 30


LIMITS = Limits()


def run(parts: Program, limits: Limits = LIMITS) -> bool:
    """Whether one program comes to its end within the limits. Raises as `run_all` does."""
    return run_all([parts], limits)[0]


def run_all(programs: Sequence[Program], limits: Limits = LIMITS) -> list[bool]:
    """Of each program, whether its parts, executed one after another, come to their end within the limits.

    The programs are shared among the processors. Raises SandboxError where not even an empty one comes to its end.
    """
    if not programs:
        return []
    _check()
    workers = max(1, min(os.cpu_count() or 1, len(programs) // SHARE))
    verdicts = [False] * len(programs)
    with ThreadPoolExecutor(workers) as pool:
        shares = pool.map(lambda i: _run(programs[i::workers], limits), range(workers))
        for i, share in enumerate(shares):
            verdicts[i::workers] = share
    return verdicts


@functools.cache
def _check() -> None:
    """Check once whether programs run at all: otherwise every answer would be graded wrong."""
    if _batch([["import collections, math, re, typing"]], LIMITS) != [True]:
        raise SandboxError(
            f"generated code cannot be run on this system: an empty program does not end under {sys.executable} -I "
            "-S with an empty environment; use a Python that starts so, on Linux"
        )


def _run(programs: Sequence[Program], limits: Limits) -> list[bool]:
    """Verdicts on all. A process that ends early loses the program that it was at; another takes up the rest."""
    verdicts: list[bool] = []
    while len(verdicts) < len(programs):
        verdicts += [*_batch(programs[len(verdicts) :], limits), False]
    return verdicts[: len(programs)]


def _batch(programs: Sequence[Program], limits: Limits) -> list[bool]:
    """Verdicts of one process on the first programs, on all of them if nothing ends it."""
    with tempfile.TemporaryFile() as job:
        job.write(bytes(confinement.PROOF_BYTES))
        job.write(json.dumps({"programs": [list(parts) for parts in programs], **asdict(limits)}).encode())
        job.flush()
        os.lseek(job.fileno(), confinement.PROOF_BYTES, os.SEEK_SET)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", confinement.__file__],
            stdin=job,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        ) as process:
            try:
                return _verdicts(process, len(programs), limits.seconds + START_SECONDS)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # all that is left of the session


def _verdicts(process: subprocess.Popen[bytes], count: int, seconds: float) -> list[bool]:
    """What a process says until it has said all, ends, or says nothing for too long."""
    assert process.stdout is not None
    file = process.stdout.fileno()
    ready = select.poll()
    ready.register(file, select.POLLIN)
    said = b""
    while len(said) < count and ready.poll(seconds * 1000) and (more := os.read(file, count)):
        said += more
    return [verdict == ord(confinement.PASSED) for verdict in said]
