"""Threads for what takes a while and is not the engine's: texts and chat templates are read there."""

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
    """Some threads. Unlike the event loop's own they are daemons, so work that never ends keeps no process alive."""

    def __init__(self, count: int):
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._began: list[float | None] = [None] * count

    def start(self) -> None:
        for number in range(len(self._began)):
            threading.Thread(target=self._work, args=(number,), name=f"worker-{number}", daemon=True).start()

    def stop(self) -> None:
        """End the threads when they have done what they are at; does not wait for that."""
        for _ in self._began:
            self._jobs.put(None)

    @property
    def seconds(self) -> float:
        """How long the work that has taken longest so far is under way; 0 if there is none."""
        now = time.monotonic()
        return max(now - began for began in (*self._began, now) if began is not None)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the work returns or raises. Work that nobody waits for any more is not begun."""
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # as a plug-in's exit, which would end the event loop
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

        self._jobs.put(job)
        return await asyncio.wrap_future(future)

    def _work(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            self._began[number] = time.monotonic()
            job()
            self._began[number] = None
