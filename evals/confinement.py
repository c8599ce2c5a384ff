"""The inside of the sandbox: run programs, each in a child that gives up what computing does not need.

`evals.sandbox` starts this very file, with a job as its standard input: 32 bytes of room for a proof of success, then
JSON. It answers with a byte for each program. A child that comes to the end of its program reads the proof from the
file and hands it in; each child has a proof of its own, which this process holds in no variable, so that the program
finds it in no frame. Only the standard library is used, and as little of it as will do.
"""

import json
import os
import platform
import resource
import select
import signal
import struct
import sys
from functools import cache, partial
from itertools import chain
from types import ModuleType
from typing import Any, NoReturn

PROOF_BYTES = 32
PASSED, FAILED = b"+", b"-"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# The audit events that computing needs; one of any other name is refused. os.putenv sets but its own environment.
# https://docs.python.org/3/library/audit_events.html
EVENTS = """
import compile exec code.__new__ function.__new__ marshal.loads marshal.dumps pickle.find_class array.__new__
builtins.id builtins.input builtins.input/result object.__getattr__ object.__setattr__ object.__delattr__
gc.get_objects gc.get_referrers gc.get_referents sys._getframe sys._getframemodulename sys._current_frames
sys._current_exceptions sys.excepthook sys.unraisablehook sys.set_asyncgen_hooks_firstiter
sys.set_asyncgen_hooks_finalizer time.sleep glob.glob glob.glob/2 pathlib.Path.glob pathlib.Path.rglob
os.listdir os.scandir os.walk os.fwalk os.putenv os.unsetenv
"""
# Modules in C that compute, of Python 3.11 to 3.14; one of any other name is not imported.
NATIVE = """
_abc _ast _asyncio _bisect _blake2 _bz2 _codecs _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw
_collections _contextvars _csv _datetime _decimal _elementtree _functools _hashlib _heapq _hmac _io _json _locale
_lsprof _lzma _md5 _multibytecodec _opcode _operator _pickle _queue _random _sha1 _sha2 _sha256 _sha3 _sha512 _signal
_socket _sre _stat _statistics _string _struct _suggestions _symtable _sysconfig _thread _tokenize _tracemalloc _types
_typing _uuid _warnings _weakref _zoneinfo array atexit audioop binascii builtins cmath errno gc grp itertools marshal
math pwd pyexpat select sys time unicodedata zlib
"""
# What reaches out of a process and raises no audit event.
UNHEARD = """
chroot login_tty mkfifo mknod pidfd_open pidfd_send_signal sched_setaffinity sched_setparam sched_setscheduler setns
setpgid setpriority setsid unshare
"""

# Linux's system calls that computing needs, by their numbers on x86-64 and on AArch64, "-" for none; `open` and
# `openat` to read only. No call that could reach another process, the network or a file system is among them.
SYSTEM_CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, lseek 8 62, close 3 57, dup 32 23, getdents64 217 61,
stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getcwd 79 17, poll 7 -, ppoll 271 73, pselect6 270 72,
brk 12 214, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, restart_syscall 219 128,
gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101,
getitimer 36 102, setitimer 38 103, getrusage 98 165, times 100 153, sysinfo 99 179, uname 63 160,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getrandom 318 278, futex 202 98, sched_yield 24 124, sched_getaffinity 204 123, exit 60 93, exit_group 231 94
"""
OPENS = {"x86_64": {2: 1, 257: 2}, "aarch64": {56: 2}}  # number: which argument holds the flags
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 1, 22, 38, 2
LOAD, IF_EQUAL, IF_ANY, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 13  # EACCES, which Python makes a PermissionError


def main() -> None:
    """Read the job, run its programs, write a verdict on each."""
    job, verdicts = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    prepare()
    with open(job, closefd=False) as file:
        wanted = json.loads(file.read())
    for parts in wanted["programs"]:
        os.pwrite(job, os.urandom(PROOF_BYTES), 0)
        proof, answer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(verdicts)
                os.close(proof)
                execute(parts, wanted["cpu"], wanted["memory"], job, answer)
            finally:
                os._exit(1)
        os.close(answer)
        os.write(verdicts, PASSED if _handed_in(proof, wanted["seconds"]) == os.pread(job, PROOF_BYTES, 0) else FAILED)
        os.close(proof)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _handed_in(proof: int, seconds: float) -> bytes:
    """What a child hands in first, be it too much; nothing if it ends without, or does not end."""
    ready = select.poll()
    ready.register(proof, select.POLLIN)
    return os.read(proof, PROOF_BYTES + 1) if ready.poll(seconds * 1000) else b""


def execute(parts: list[str], seconds: int, memory: int, job: int, answer: int) -> NoReturn:
    """Give up what can be given up, execute, hand in the proof."""
    module = ModuleType("answer")  # not __main__: an answer's own main() stays asleep
    sys.modules["answer"] = module  # where dataclasses look it up
    limit(seconds, memory)
    filter_system_calls()
    shut_interpreter()
    for part in parts:
        exec(compile(part, "<answer>", "exec"), module.__dict__)
    os.write(answer, os.pread(job, PROOF_BYTES, 0))
    os._exit(0)  # without what the program left to be done at the end


def limit(seconds: int, memory: int) -> None:
    """Bind this process: seconds of CPU time, bytes of address space. A limit once lowered stays so."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),  # what a file may grow to
        (resource.RLIMIT_NPROC, 0),  # no further process or thread; root's are not counted
    ):
        resource.setrlimit(kind, (most, most))


def prepare() -> None:
    """Have Linux end this process with its parent, and work out once what every child needs."""
    if machine := _machine():
        _prctl()(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _filter(machine)


def _prctl() -> Any:
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    return prctl


def filter_system_calls() -> bool:
    """Have the kernel refuse all system calls but SYSTEM_CALLS from now on, and end this process with its parent.

    Whether it does: seccomp is Linux's, and the numbers of calls are known for two kinds of processor.
    """
    if not (machine := _machine()):
        return False
    import ctypes

    code = ctypes.create_string_buffer(_filter(machine))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(code)))
    prctl = _prctl()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # so that no privilege is needed
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0) == 0


@cache
def _machine() -> str:
    """The kind of processor, if its system calls are known."""
    machine = platform.machine() if sys.platform == "linux" and sys.maxsize > 1 << 32 else ""
    return machine if machine in ARCHITECTURES else ""


@cache
def _filter(machine: str) -> bytes:
    """The filter as a program of the Berkeley packet filter, which reads a struct seccomp_data.

    https://docs.kernel.org/userspace-api/seccomp_filter.html
    """
    column = 1 + list(ARCHITECTURES).index(machine)
    numbers = [call.split()[column] for call in SYSTEM_CALLS.split(",")]
    allow, refuse = (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)
    check = [(LOAD, 0, 0, 4), (IF_EQUAL, 1, 0, ARCHITECTURES[machine]), refuse, (LOAD, 0, 0, 0)]
    simple = [[(IF_EQUAL, 0, 1, int(number)), allow] for number in numbers if number != "-"]
    opens = [
        [(IF_EQUAL, 0, 4, number), (LOAD, 0, 0, 16 + 8 * flags), (IF_ANY, 0, 1, WRITES), refuse, allow]
        for number, flags in OPENS[machine].items()
    ]
    instructions = chain(check, *simple, *opens, [refuse])
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def shut_interpreter() -> None:
    """Remove from the interpreter what reaches out of this process, and refuse it from now on."""
    for name in {"ctypes", "ctypes._endian", "_ctypes", "resource"} & sys.modules.keys():
        del sys.modules[name]
    for module in (os, sys.modules["posix"], signal, sys.modules["_signal"]):
        for name in UNHEARD.split():
            vars(module).pop(name, None)
    sys.modules["_posixsubprocess"] = ModuleType("_posixsubprocess")  # so that subprocess, which asyncio wants, loads
    sys.modules["_posixsubprocess"].fork_exec = _no_process  # type: ignore[attr-defined]
    sys.addaudithook(partial(_refuse, frozenset(EVENTS.split()), frozenset(NATIVE.split())))


def _no_process(*_: object) -> NoReturn:
    raise PermissionError("generated code may not start a process")


def _refuse(events: frozenset[str], natives: frozenset[str], event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (PEP 578), which cannot be taken off."""
    if event == "open":
        path, _, flags = args
        if flags & WRITES and not isinstance(path, int):
            raise PermissionError(f"generated code may not write {path!r}")
    elif event not in events:
        raise PermissionError(f"generated code may not use {event}")
    elif event == "import":
        name, file = args[:2]
        if name not in natives and (name in sys.builtin_module_names or file is not None):
            raise ImportError(f"generated code may not import {name}")


if __name__ == "__main__":
    main()
