"""The start of the ranks: by this process, or by torchrun, which then runs the same program in every rank."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from unmask.engine.ranks.channel import Channel, meeting
from unmask.engine.ranks.follow import follow, stay
from unmask.engine.ranks.group import Process, Ranks, end, last_words
from unmask.models.devices import choose_device
from unmask.models.errors import CheckpointError
from unmask.models.split import ALONE, Split, require_splittable

FOLLOWER = "unmask.engine.ranks.follow"
LOOPBACK = ("lo", "lo0")
POLL = 0.02  # seconds


def start_ranks(
    size: int, device: str = "auto", quantization: str | None = None, compiled: bool | None = None, lora: bool = False
) -> Ranks | None:
    """Start the ranks beside this one, or meet those that torchrun has started; None if there is one in all.

    The arguments after the first are those of `load_model`. Raises CheckpointError for what is not done over several
    ranks, and if a rank cannot be started.
    """
    require_splittable(size, device, quantization, compiled, lora)
    if size == 1:
        return None
    kind = choose_device(device).type
    if not dist.is_available():
        raise CheckpointError("tensor_parallel needs torch.distributed, which this torch was built without")
    if dist.is_initialized():
        raise CheckpointError("tensor_parallel needs torch.distributed, which this process uses already; use another")
    if dist.is_torchelastic_launched():
        return Ranks(size, _join_torchrun(size, kind))
    if kind == "cuda" and torch.cuda.device_count() < size:
        raise CheckpointError(
            f"tensor_parallel {size} needs as many CUDA devices, and torch finds {torch.cuda.device_count()}; ask for "
            "fewer, or use device cpu"
        )
    return _spawn(size, kind)


def loading(ranks: Ranks | None, source: str, revision: str | None, dtype: str) -> AbstractContextManager[Split]:
    """The part of a model to load in the context, while other ranks load theirs; see `Ranks.loading`."""
    return nullcontext(ALONE) if ranks is None else ranks.loading(source, revision, dtype)


def follows() -> bool:
    """Whether torchrun has started this process as another rank than 0."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ["RANK"]) > 0


def follow_torchrun(size: int, device: str = "auto") -> None:
    """Be what `follows` says until rank 0 ends. For the main thread. Raises what fails."""
    stay()
    channel = _join_torchrun(size, choose_device(device).type)
    follow(Split(int(os.environ["RANK"]), size), channel)


def _join_torchrun(size: int, kind: str) -> Channel:
    rank, started, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if started != size:
        raise CheckpointError(f"tensor_parallel is {size} and torchrun has started {started} ranks; make them agree")
    return Channel.join(rank, size, kind, local)


def _spawn(size: int, kind: str) -> Ranks:
    # Nobody else may read it.
    folder = tempfile.TemporaryDirectory(prefix="unmask-ranks-", ignore_cleanup_errors=True)
    file = Path(folder.name) / "store"
    threads = max(1, torch.get_num_threads() // size)
    if kind == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    processes: list[Process] = []
    try:
        with _loopback():
            processes += [_process(rank, size, kind, file, threads) for rank in range(1, size)]
            store = meeting(file, size)
            _await(processes, store)
            channel = Channel.join(0, size, kind, 0, store)
    except BaseException:
        for process in processes:
            end(process, 0)
        folder.cleanup()
        raise
    return Ranks(size, channel, processes, folder)


def _process(rank: int, size: int, kind: str, file: Path, threads: int) -> Process:
    command = [sys.executable, "-P", "-m", FOLLOWER, str(rank), str(size), kind, str(file)]
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ} if kind == "cpu" else None
    pipe = subprocess.PIPE
    # A session of its own: what a terminal sends to rank 0 is for rank 0 to answer.
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True)


def _await(processes: list[Process], store: Any) -> None:
    """Wait until all ranks are there. Raises CheckpointError if one has ended."""
    while not store.check([str(rank) for rank in range(1, len(processes) + 1)]):
        for rank, process in enumerate(processes, start=1):
            if process.poll() is not None:
                raise CheckpointError(f"rank {rank} could not be started: it has ended, {last_words(process)}")
        time.sleep(POLL)


@contextmanager
def _loopback() -> Iterator[None]:
    """Let ranks of one machine listen to that machine alone, unless the environment says where."""
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
    if "GLOO_SOCKET_IFNAME" in os.environ or not names:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = names[0]
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]
