"""The client of a request: which key it has, and how long it waits."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request as HTTPRequest

from unmask.server.errors import ClientLeftError, DeadlineError
from unmask.server.settings import ServeSettings

T = TypeVar("T")


class Deadline:
    """Ends some seconds after it is made; None sets no end."""

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._at = None if seconds is None else asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Cancel the work inside when the time is over. Raises DeadlineError."""
        try:
            async with asyncio.timeout_at(self._at):
                yield
        except TimeoutError:
            raise DeadlineError(
                f"the request was not done within {self._seconds:g} seconds; ask for less, or allow more time"
            ) from None


class Caller:
    """The client of one HTTP request. Its time starts when this is made.

    Clients take turns: first the API keys with each other, then the HTTP requests with the same key.

    timeout  seconds that the request allows; the server may allow less
    model    the name of the model or adapter that it asks for
    """

    def __init__(self, http: HTTPRequest, timeout: float | None, settings: ServeSettings, model: str):
        self._http = http
        self.model = model
        self.id: str = http.state.request_id
        key: str = getattr(http.state, "key", "")  # a name for its API key, where the server asks for one
        self.client = (key, uuid.uuid4().hex)
        given = [seconds for seconds in (timeout, settings.request_timeout) if seconds is not None]
        seconds = min(given, default=None)
        self.deadline = Deadline(seconds)
        self.ends = None if seconds is None else time.monotonic() + seconds  # the same for the engine's thread

    async def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, which is cancelled if the time is over or the client leaves first.

        Raises DeadlineError, ClientLeftError, or what the work raises.
        """
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self._disconnect())
        try:
            async with self.deadline.kept():
                await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientLeftError("the client has left")
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()

    async def _disconnect(self) -> None:
        while (await self._http.receive())["type"] != "http.disconnect":
            pass
