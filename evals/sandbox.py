"""Run generated code against tests: in a process of its own, for a short while, with little to reach.

`run(parts)` starts `evals/confinement.py` with `python -I -S`, an empty environment and the standard library alone.
The child gives up what computing does not need, then executes the parts one after another in one module. Only a run
that comes to the end of the last part counts: an exception, `sys.exit`, `os._exit` and a kill do not.

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
import math
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from unmask.errors import UserError
from unmask.evals import confinement


class SandboxError(UserError, RuntimeError):
    """Programs cannot be run, so no answer can be graded."""


@dataclass(frozen=True)
class Limits:
    """What a run may use.

    seconds  of wall-clock time, the start of the interpreter included
    memory   bytes of address space
    """

    seconds: float = 10.0
    memory: int = 1 << 30


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
    """Check once whether programs run at all: otherwise every answer would be graded wrong."""
    if not _run(["import collections, math, re, typing"], LIMITS):
        raise SandboxError(
            f"generated code cannot be run on this system: an empty program does not end under {sys.executable} -I "
            "-S with an empty environment; use a Python that starts so, on Linux"
        )


def _run(parts: Sequence[str], limits: Limits) -> bool:
    proof = secrets.token_hex(confinement.PROOF_BYTES // 2).encode()
    wanted = {"parts": list(parts), "seconds": math.ceil(limits.seconds), "memory": limits.memory}
    with tempfile.TemporaryFile() as job:
        job.write(proof + json.dumps(wanted).encode())
        job.flush()
        os.lseek(job.fileno(), len(proof), os.SEEK_SET)
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
                return _read(process, limits.seconds) == proof
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # all that is left of the session


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """What a child hands in first, be it too much; nothing if it ends without, or does not end."""
    assert process.stdout is not None
    file = process.stdout.fileno()
    ready = select.poll()
    ready.register(file, select.POLLIN)
    return os.read(file, confinement.PROOF_BYTES + 1) if ready.poll(seconds * 1000) else b""
