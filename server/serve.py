"""`unmask serve`: the app under uvicorn."""

import asyncio
import logging
import os
import socket
import time
from types import FrameType
from typing import ClassVar

import uvicorn

from unmask.engine.caching import advice, choose_cache
from unmask.engine.errors import RankLostError
from unmask.engine.ranks.start import follow_torchrun, follows
from unmask.engine.service import STOP_SECONDS, ModelNotFiniteError
from unmask.errors import UserError
from unmask.models.devices import choose_device
from unmask.models.hub import find_folder
from unmask.models.loading import Model
from unmask.server.app import create_app
from unmask.server.backend import Backend
from unmask.server.errors import NotReadyError
from unmask.server.ops.logs import logging_config
from unmask.server.ops.middleware import MAX_HEAD_BYTES
from unmask.server.settings import ServeSettings

log = logging.getLogger(__name__)

FORESEEN = (ValueError, NotReadyError, ModelNotFiniteError, RankLostError)  # their messages need no traceback
FLUSH_SECONDS = 2  # for the last answers to reach their clients after the engine has stopped


def serve(settings: ServeSettings) -> int:
    """Serve until a signal comes. Returns the exit code: 1 if the model could not be loaded or its engine is lost.

    The log says why. After a signal, running requests may end and new ones are refused; a second signal stops them.
    If a thread is still busy at the end, the process exits at once: Python would wait for a download, and other code
    that still runs might crash it. Where torchrun has started this process as another rank than 0, it follows rank 0
    and listens to nobody else.

    Raises CannotListenError or CheckpointError for arguments that cannot work, before it listens.
    """
    if settings.tensor_parallel > 1 and follows():
        follow_torchrun(settings.tensor_parallel, settings.device)
        return 0
    check_arguments(settings)
    failures: list[BaseException] = []

    def ready(model: Model) -> None:
        where = settings.host, settings.port, model.device
        backend = app.state.backend
        log.info("serving %s at http://%s:%d, on %s in %s", backend.model_name, *where, model.precision)
        a = model.network.architecture
        if words := advice(choose_cache(backend.settings.cache, a), a, model.device.type):
            log.info("%s", words)

    app = create_app(settings, ready, failures.append)
    config = uvicorn.Config(
        app,
        http="h11",  # it bounds the size of headers, and httptools does not
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        host=settings.host,
        port=settings.port,
        log_config=logging_config(settings.log_format),
        timeout_keep_alive=settings.idle_timeout,
        access_log=False,  # the middleware logs more
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )
    server = DrainingServer(config, app.state.backend)
    code = _run(server)
    for error in failures or server.failures:
        log.error("%s", error, exc_info=None if isinstance(error, FORESEEN) else error)
        code = 1
    if app.state.backend.busy:
        logging.shutdown()
        os._exit(code)
    return code


def _run(server: uvicorn.Server) -> int:
    """Run uvicorn and return its exit code."""
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn raises the second signal again after it has stopped
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


class CannotListenError(UserError):
    """The address or the port cannot be used."""

    exit_code: ClassVar[int] = 3


def check_arguments(settings: ServeSettings) -> None:
    """Raise CannotListenError or CheckpointError for faults that can be seen before anything is loaded."""
    find_folder(settings.model)
    choose_device(settings.device)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        reason = (error.strerror or "").partition(" (")[0]  # Python repeats the address
        raise CannotListenError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another --host or --port"
        ) from None


class DrainingServer(uvicorn.Server):
    """uvicorn stops listening at the first signal; this server answers on while the backend has requests.

    failures  why it stopped by itself: faults that the backend cannot recover from
    """

    def __init__(self, config: uvicorn.Config, backend: Backend):
        super().__init__(config)
        self.failures: list[NotReadyError] = []
        self._backend = backend
        self._until: float | None = None  # end of the grace time

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal. It takes no lock and writes no log, as it interrupts the main thread anywhere."""
        if self._backend.draining:
            super().handle_exit(sig, frame)
        self._backend.drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop, ten times per second. Requests that still run end with an error.

        A running step is not waited for after a second signal, or if it hangs.
        """
        ends = await super().on_tick(counter) or self._has_drained() or self._is_lost()
        if ends:
            await asyncio.to_thread(self._backend.stop, 0 if self.should_exit or self.failures else STOP_SECONDS)
        return ends

    def _has_drained(self) -> bool:
        load = self._backend.load
        if not self._backend.draining:
            return False
        if self._until is None:
            seconds = self._backend.settings.shutdown_seconds
            self._until = time.monotonic() + seconds
            log.info("%d requests may end within %d seconds; a second signal ends them now", load, seconds)
        return not load or time.monotonic() > self._until

    def _is_lost(self) -> bool:
        try:
            self._backend.check_health()
        except NotReadyError as error:
            self.failures.append(error)
        return bool(self.failures)
