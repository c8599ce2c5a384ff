"""Ways out of the sandbox: the kernel and the interpreter hold each of them, together and alone."""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.live import PATIENCE
from unmask.evals import confinement
from unmask.evals.sandbox import run

# Each comes to its end where it gets out. FOLDER is no folder of its own, VICTIM the id of another process.
ESCAPES = {
    "pidfd": "import os, signal; signal.pidfd_send_signal(os.pidfd_open(VICTIM), signal.SIGKILL)",
    "kill": "import os, signal; os.kill(VICTIM, signal.SIGKILL)",
    "setpriority": "import os; os.setpriority(os.PRIO_PROCESS, VICTIM, 19)",
    "sched_setaffinity": "import os; os.sched_setaffinity(VICTIM, {0})",
    "sqlite3": "import sqlite3; sqlite3.connect(FOLDER + '/data').execute('create table t (c)')",
    "mkfifo": "import os; os.mkfifo(FOLDER + '/fifo')",
    "mknod": "import os; os.mknod(FOLDER + '/node')",
    "open": "open(FOLDER + '/file', 'w')",
    "truncate": "import os; os.close(os.open(FOLDER + '/kept', os.O_RDONLY | os.O_TRUNC))",
    "remove": "import os; os.remove(FOLDER + '/kept')",
    "chmod": "import os; os.chmod(FOLDER + '/kept', 0o777)",
    "mkdir": "import os; os.mkdir(FOLDER + '/folder')",
    "own folder": "open('note', 'w')",
    "shm_open": "import _posixshmem, os; _posixshmem.shm_open(SHM, os.O_CREAT | os.O_RDWR, 0o600)",
    "fork": "import os; os.fork() or os._exit(0)",
    "fork_exec": """
import os
from _posixsubprocess import fork_exec
r, w = os.pipe()
files = (-1, -1, -1, -1, -1, -1, r, w)
fork_exec([b'sh', b'-c', b'exit'], [b'/bin/sh'], True, (w,), None, None, *files, True, True, -1, None, None, None, -1,
          None, True)
""",
    "subprocess": "import subprocess; subprocess.run(['true'])",
    "setsid": "import os; os.setsid()",
    "socket": "import socket; socket.socket()",
    "unix socket": "import socket; socket.socketpair()",
    "libc": """
import sys
maps = [line.split() for line in open('/proc/self/maps')]
libc = next(int(fields[0].split('-')[0], 16) for fields in maps if fields[-1].endswith('libc.so.6'))
ctypes = sys.modules.get('ctypes') or __import__('ctypes')
assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)(libc + SYSTEM)(b'true') == 0
""",
}
INSIDE = "import confinement, sys; confinement.{layer}(); exec(sys.argv[1])"
LAYERS = {"kernel": "filter_system_calls", "interpreter": "shut_interpreter"}


@dataclass(frozen=True)
class Outside:
    """What a program could harm."""

    folder: Path
    victim: psutil.Process
    shared_memory: str

    def fill(self, escape: str) -> str:
        """The program of an escape, with the names in it bound."""
        names = {"FOLDER": str(self.folder), "VICTIM": self.victim.pid, "SHM": self.shared_memory, "SYSTEM": system()}
        return "\n".join([*(f"{name} = {value!r}" for name, value in names.items()), escape])

    def state(self) -> object:
        """All of it."""
        victim = self.victim.nice(), self.victim.cpu_affinity(), self.victim.status() == psutil.STATUS_ZOMBIE
        files = [(file.name, file.read_text(), file.stat().st_mode) for file in self.folder.iterdir()]
        return victim, files, Path("/dev/shm" + self.shared_memory).exists()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    (tmp_path / "kept").write_text("kept")
    with subprocess.Popen(["sleep", "600"]) as victim:
        yield Outside(tmp_path, psutil.Process(victim.pid), f"/unmask-{victim.pid}")
        victim.kill()


def system() -> int:
    """Where libc's system() lies, from where libc lies on."""
    address = ctypes.cast(ctypes.CDLL(None).system, ctypes.c_void_p).value
    with open("/proc/self/maps") as maps:
        start = next(int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith("libc.so.6"))
    assert address
    return address - start


@pytest.mark.parametrize("name", ESCAPES)
def test_no_program_gets_out(name: str, outside: Outside) -> None:
    before = outside.state()
    assert not run([outside.fill(ESCAPES[name])])
    assert outside.state() == before


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ESCAPES)
def test_each_layer_holds_alone(name: str, layer: str, outside: Outside) -> None:
    """So that where one fails the other is there."""
    if layer == "kernel" and platform.machine() not in confinement.ARCHITECTURES:
        pytest.skip("the numbers of this processor's system calls are not known")
    before = outside.state()
    done = subprocess.run(
        [sys.executable, "-S", "-c", INSIDE.format(layer=LAYERS[layer]), outside.fill(ESCAPES[name])],
        cwd=Path(confinement.__file__).parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert outside.state() == before


SEARCH = """
import gc, os, sys
def proof():
    for file in range(3, 10):
        try: return os.pread(file, 32, 0)
        except OSError: pass
{planted}
frame, found = sys._getframe(), []
while frame:
    found += [*frame.f_locals.values(), *frame.f_globals.values()]
    frame = frame.f_back
found = [repr(value) for value in [*found, *gc.get_objects()]]
wanted = repr(proof())
assert any(wanted in text for text in found)
"""


def test_the_proof_of_success_is_in_no_frame() -> None:
    """Nor in what the garbage collector knows of. A program that reads it from where it lies can hand it in."""
    assert run([SEARCH.format(planted="planted = [proof()]")])
    assert not run([SEARCH.format(planted="")])


def test_the_filter_is_on() -> None:
    """Where it is not, the layers would not be two."""
    if platform.machine() in confinement.ARCHITECTURES:
        assert run(["assert 'Seccomp:\\t2' in open('/proc/self/status').read()"])
