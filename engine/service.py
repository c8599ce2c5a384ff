"""The engine on a thread of its own, with a bounded queue before it."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from unmask.engine.canvas import Canvas
from unmask.engine.engine import Engine
from unmask.engine.errors import NoMemoryError, NotFiniteError, RankLostError, SchedulerError
from unmask.engine.request import Request, Step, fit_block_length
from unmask.models.devices import make_current
from unmask.schedulers import parse_scheduler

log = logging.getLogger(__name__)

GOING_DOWN = "the server is going down and has cancelled the request; send it again later"
STOP_SECONDS = 5.0  # that `stop` waits for a running step


class EngineError(RuntimeError):
    """A request could not be finished. The subclasses say why it could not even start."""


class QueueFullError(EngineError):
    """As many requests as allowed are waiting already; try again later."""


class EngineStoppedError(EngineError):
    """The engine is stopped or stopping."""


class SchedulerFailedError(EngineError):
    """The request's scheduler raised; other requests went on."""


class ModelNotFiniteError(EngineError):
    """The model computed NaN for the request; other requests went on."""


class OutOfMemoryError(EngineError):
    """The device had no memory for the request; other requests went on."""


T = TypeVar("T")
OnStep = Callable[[Step | EngineError], None]
OnPass = Callable[[Sequence[Step]], None]


class EngineService:
    """Thread-safe front of an Engine. Callbacks run on the engine's thread and must return at once.

    max_waiting  requests without a row, at most
    on_pass      gets the steps of each forward pass, before the listeners of the requests do
    """

    def __init__(self, engine: Engine, max_waiting: int, on_pass: OnPass = lambda steps: None):
        self.engine = engine
        self._max_waiting = max_waiting
        self._on_pass = on_pass
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._listeners: dict[str, OnStep] = {}
        self._unadmitted = 0  # submitted, but not yet accepted by the engine's thread
        self._lock = threading.Lock()
        self._stopping = False
        self._abandoned = False
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Cancel the running requests and end the thread. After `seconds`, a running step is abandoned."""
        with self._lock:
            self._stopping = True
            self._commands.put(lambda: None)  # wakes an idle thread
        if self._thread.is_alive() and not self._abandoned:
            self._thread.join(seconds)
            self._abandoned = self._thread.is_alive()
        lost = self.engine.lost  # if it is that for which the server goes down, clients are told
        stopped = EngineStoppedError(GOING_DOWN) if lost is None else EngineError(f"the engine failed: {lost}")
        for request_id in list(self._listeners):  # of an abandoned step; the thread may still report to some
            self._tell(request_id, stopped, last=True)

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def step_seconds(self) -> float:
        """How long the current step has taken so far; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def running(self) -> int:
        """Requests that are rows of the batch."""
        return self.engine.running

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return self.engine.waiting + self._unadmitted

    def submit(self, request: Request, on_step: OnStep) -> None:
        """Prepare a request and run it, see `enqueue`. Raises also what `Engine.prepare` raises."""
        self.enqueue(self.engine.prepare(request), on_step)

    def enqueue(self, canvas: Canvas, on_step: OnStep) -> None:
        """Run a request that `Engine.prepare` has checked.

        `on_step` gets its steps up to the one with a result, or an EngineError and then no more.

        Raises QueueFullError or EngineStoppedError.
        """
        with self._lock:
            if self._stopping:
                raise EngineStoppedError("the engine is stopping; it takes no more requests")
            if self.waiting >= self._max_waiting:
                raise QueueFullError(f"{self.waiting} requests are waiting, the most allowed; try again later")
            self._unadmitted += 1
            self._commands.put(lambda: self._accept(canvas, on_step))  # under the lock, so that `_end` sees it

    def cancel(self, request_id: str) -> None:
        """End a request within one step; its last step has the finish reason "cancelled". Unknown ids are ignored."""
        self._commands.put(lambda: self._drop(request_id))

    def call(self, work: Callable[[Engine], T]) -> "Future[T]":
        """Run `work` on the engine's thread, between two steps. Raises EngineStoppedError.

        If `work` fails, the future raises an EngineError.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(self.engine))
            except NotFiniteError as error:
                log.error("a call on the engine's thread failed: %s", error)
                future.set_exception(ModelNotFiniteError(str(error)))
            except BaseException as error:
                log.exception("a call on the engine's thread failed")
                future.set_exception(EngineError(f"the engine failed: {error}"))

        with self._lock:
            if self._stopping:
                raise EngineStoppedError("the engine is stopping; it takes no more requests")
            self._commands.put(run)  # under the lock, so that `_end` sees it
        return future

    def _loop(self) -> None:
        make_current(self.engine.model.device)
        try:
            while not self._stopping:
                self._obey()
                self._advance()
        except BaseException:  # a scheduler that exits must not end the thread
            log.critical("the engine cannot go on", exc_info=True)
        finally:
            self._end()

    def _advance(self) -> None:
        """One step. An error ends the requests that it concerns. Raises if the engine cannot recover."""
        self._step_began = time.monotonic()
        try:
            steps = self._step()
            self._on_pass(steps)
            for step in steps:
                self._tell(step.request_id, step, last=step.result is not None)
        except SchedulerError as error:
            log.exception("a scheduler failed; the requests that use it end with an error")
            for request_id in dict.fromkeys(error.request_ids):
                self.engine.cancel(request_id)
                self._tell(request_id, SchedulerFailedError(str(error)), last=True)
        except NoMemoryError as error:
            log.warning("a request ends with an error: %s", error)
            for request_id in error.request_ids:
                self.engine.cancel(request_id)
                self._tell(request_id, OutOfMemoryError(str(error)), last=True)
        except RankLostError as error:
            log.critical("the engine cannot go on: %s", error)
            self._fail(error)
            self._stopping = True
        except BaseException as error:
            log.exception("the engine failed; its requests end with an error")
            try:
                self.engine.reset()
            finally:
                self._fail(error)
            self._prove()
        finally:
            self._step_began = None

    def _step(self) -> Sequence[Step]:
        """The steps of the rows without NaN; the others end."""
        try:
            return self.engine.step()
        except NotFiniteError as error:
            log.error("%d requests end with an error: %s", len(error.request_ids), error)
            for request_id in error.request_ids:
                self._tell(request_id, ModelNotFiniteError(str(error)), last=True)
            return error.steps

    def _prove(self) -> None:
        """Generate a token, to find out whether the device still works. Raises what the step raises."""
        block_length = fit_block_length(1, 1, self.engine.model.network.architecture)
        self.engine.results([Request("proof", (0,), 1, block_length, parse_scheduler("topk"))])
        log.info("the engine has recovered")

    def _end(self) -> None:
        """Accept no more requests and end all that are left."""
        with self._lock:
            self._stopping = True
        self._obey(block=False)
        try:
            for request_id in list(self._listeners):
                self._drop(request_id)
        except Exception:
            log.exception("the engine failed while it was stopped")
        self._fail("it has ended")  # requests that a failed engine no longer knows

    def _obey(self, block: bool = True) -> None:
        """Run the commands of other threads; wait for one only if the engine is idle."""
        idle = not self.engine.running and not self.engine.waiting
        if block and idle:
            self._commands.get()()
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return
            command()

    def _accept(self, canvas: Canvas, on_step: OnStep) -> None:
        self._listeners[canvas.request.id] = on_step
        with self._lock:
            self._unadmitted -= 1
        self.engine.enqueue(canvas)

    def _drop(self, request_id: str) -> None:
        step = self.engine.cancel(request_id)
        if step is not None:
            self._tell(request_id, step, last=True)

    def _fail(self, why: object) -> None:
        """End every request with an error, so that none hangs."""
        for request_id in list(self._listeners):
            self._tell(request_id, EngineError(f"the engine failed: {why}"), last=True)

    def _tell(self, request_id: str, event: Step | EngineError, last: bool) -> None:
        listener = self._listeners.pop(request_id, None) if last else self._listeners.get(request_id)
        if listener is None:  # `stop` has already reported the end
            return
        try:
            listener(event)
        except Exception:
            log.exception("a listener of request %s failed", request_id)
