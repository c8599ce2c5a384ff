"""Threads for work that takes a while, such as tokenising texts and rendering chat templates."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """Daemon threads, unlike the event loop's own: work that never ends does not keep the process alive."""

    def __init__(self, count: int):
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._began: list[float | None] = [None] * count

    def start(self) -> None:
        for number in range(len(self._began)):
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True).start()

    def stop(self) -> None:
        """Let the threads end after their current work; does not wait for them."""
        for _ in self._began:
            self._jobs.put(None)

    @property
    def seconds(self) -> float:
        """How long the oldest current work has taken so far; 0 if there is none."""
        now = time.monotonic()
        return max(now - began for began in (*self._began, now) if began is not None)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the work returns or raises. Work whose caller has gone is not started."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # such as the exit of a plug-in, which would end the event loop
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

        self._jobs.put(job)
        return await asyncio.wrap_future(future)

    def _work(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            self._began[number] = time.monotonic()
            job()
            self._began[number] = None
