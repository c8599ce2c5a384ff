"""Rank 0's side: it tells the other ranks what to do, and watches them.

All ranks do the same in the same order, so that their collectives meet. If that is broken, as by a rank that dies or a
pass that fails, nothing can be computed any more: the other ranks are ended, and whatever is asked later is an error.
"""

import atexit
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from unmask.engine.errors import RankLostError
from unmask.engine.ranks.channel import Channel
from unmask.models.split import Split

PATIENCE = 5.0  # seconds that a rank takes to end, at most
NEWS = 2.0  # seconds in which the end of a process is known
ENDED = "the ranks of the model were ended"
ONE_THING = "ranks do one thing at a time, and nothing inside of another"

Process = subprocess.Popen[str]


class Ranks:
    """The ranks beside this one, which is rank 0. `split` says what part it has.

    processes  those that this one has started; their standard output holds their last words, and their standard input
               is open for as long as this process lives
    folder     where they meet, also later, when a group of them is made

    `lost` and `close` may be used by any thread, the rest by one at a time.
    """

    def __init__(
        self,
        size: int,
        channel: Channel,
        processes: Sequence[Process] = (),
        folder: "TemporaryDirectory[str] | None" = None,
    ):
        self.split = Split(0, size)
        self._channel = channel
        self._processes = processes
        self._folder = folder
        self._busy = threading.Lock()
        self._losing = threading.Lock()
        self._lost: str | None = None
        self._news = threading.Event()
        self._closed = False
        for rank, process in enumerate(processes, start=1):
            threading.Thread(target=self._watch, args=(rank, process), name=f"rank-{rank}", daemon=True).start()
        atexit.register(self.close)

    @property
    def lost(self) -> str | None:
        """Why nothing can be computed any more; None if all is well."""
        return self._lost

    @contextmanager
    def together(self, what: str, *how: Any) -> Iterator[None]:
        """Have the other ranks do something, see `engine.ranks.follow.Follower`, that this one does in the context.

        Raises RankLostError if a rank is lost, or what this one does fails.
        """
        if self._lost is not None or not self._busy.acquire(blocking=False):
            raise RankLostError(self._lost or ONE_THING)
        try:
            self._channel.send(what, how)
            yield
        except Exception as error:
            raise RankLostError(self._give_up(error)) from error
        except BaseException as error:
            self._give_up(error)
            raise
        finally:
            self._busy.release()

    @contextmanager
    def loading(self, source: str, revision: str | None, dtype: str) -> Iterator[Split]:
        """Have the other ranks load their parts of a model while this one does, and wait for all. An error of this one
        ends them and is raised as it is. Raises RankLostError if another fails."""
        with self.together("load", source, revision, dtype):
            pass
        try:
            yield self.split
        except BaseException:
            self.close()
            raise
        with self.together("meet"):
            self._channel.meet()

    def close(self) -> None:
        """End the other ranks. A step that is under way is waited for, though not for long."""
        if self._closed:
            return
        self._closed = True
        well = self._lose(ENDED)
        if self._busy.acquire(timeout=PATIENCE):  # and kept: nothing is told any more
            with suppress(Exception):  # the others may end by themselves just now
                if well:
                    self._channel.send("end", ())
            with suppress(Exception):
                if well or self._channel.device.type == "cpu":  # NCCL may wait for a rank that is lost
                    dist.destroy_process_group()
        for process in self._processes:
            end(process, PATIENCE if well else 0.0)
        if self._folder is not None:
            self._folder.cleanup()
        atexit.unregister(self.close)

    def _give_up(self, error: BaseException) -> str:
        """End the other ranks after an error, as they may wait for this one for ever. Returns why they are lost."""
        self._news.wait(NEWS if self._processes else 0.0)  # most likely it is a rank that has ended
        self._lose(
            f"a pass failed in rank 0 of {self.split.size} ({type(error).__name__}: {error}), and the others wait"
        )
        for process in self._processes:
            process.kill()
        return self._lost or ENDED

    def _lose(self, why: str) -> bool:
        """Note why the ranks are lost; whether they were not before."""
        with self._losing:
            if self._lost is not None:
                return False
            self._lost = why
        self._news.set()
        return True

    def _watch(self, rank: int, process: Process) -> None:
        words = last_words(process)
        self._lose(f"rank {rank} of {self.split.size} has ended, {words}")


def last_words(process: Process) -> str:
    """Wait for the end of a process, and say how it ended."""
    assert process.stdout is not None
    with process.stdout as output:
        said = output.read().strip().rpartition("\n")[2]
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"{how}: {said}" if said else how


def end(process: Process, seconds: float) -> None:
    """End a process that this one has started; after some seconds it is killed."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()  # it ends itself then
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
