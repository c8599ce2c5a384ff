"""What every response gets: an id, a count, a line in the log, and an answer if an exception was not foreseen."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from http import HTTPMethod

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmask.engine.service import GOING_DOWN, EngineStoppedError
from unmask.server.errors import HeadTooLargeError, error_response
from unmask.server.ops.access import PROBES
from unmask.server.ops.metrics import Metrics

log = logging.getLogger(__name__)

MAX_PATH = 200  # characters of a path in the log
MAX_HEAD_BYTES = 1 << 16  # of the address and the headers, also while they arrive
KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which readers of server-sent events skip
_HEAD_TOO_LARGE = f"the address and the headers have more than {MAX_HEAD_BYTES} bytes; send less"
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Observe:
    """Echoes `X-Request-Id` or makes one (`request.state.request_id`), counts and logs responses, and answers
    exceptions that nothing else answers.

    It refuses long heads, and bodies of more than `limit()` bytes. It is plain ASGI: it does not buffer streams, and
    endpoints see when the client leaves.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, limit: Callable[[], int]):
        self._app = app
        self._metrics = metrics
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        # A HEAD is answered as a GET; the HTTP server leaves the body out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        path: str = scope["path"]
        began, status = time.monotonic(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                self._count(scope["method"], inner, status)
            await send(message)

        try:
            if _head_bytes(scope) > MAX_HEAD_BYTES:
                return await error_response(HeadTooLargeError(_HEAD_TOO_LARGE), path)(scope, receive, observed)
            await self._app(inner, _limited(receive, scope, self._limit()), observed)
        except asyncio.CancelledError:  # the server stops, and its grace time is over
            if not status:
                await error_response(EngineStoppedError(GOING_DOWN), path)(scope, receive, observed)
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # a plug-in that exits must not end the server
            log.exception("request %s failed", request_id, extra={"request_id": request_id})
            if status:
                raise  # half of the answer is sent; the server closes the connection
            await error_response(error, path)(scope, receive, observed)
        finally:
            _log(scope, request_id, status, time.monotonic() - began)

    def _count(self, method: str, scope: Scope, status: int) -> None:
        method = method if method in HTTPMethod.__members__ else "other"
        self._metrics.count_http(method, getattr(scope.get("route"), "path", "other"), status)


class KeepAlive:
    """Sends a comment into event streams after some seconds of silence, as proxies close silent connections."""

    def __init__(self, app: ASGIApp, seconds: float):
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        beating: asyncio.Task[None] | None = None
        sent = asyncio.Event()

        async def kept(message: Message) -> None:
            nonlocal beating
            if beating is not None and not message.get("more_body", False):
                beating.cancel()
            await send(message)
            sent.set()
            if _starts_events(message):
                beating = asyncio.create_task(self._beat(sent, send))

        try:
            await self._app(scope, receive, kept)
        finally:
            if beating is not None:
                beating.cancel()

    async def _beat(self, sent: asyncio.Event, send: Send) -> None:
        """Send comments. Each event is sent as one message, so comments stand between events."""
        while True:
            sent.clear()
            try:
                async with asyncio.timeout(self._seconds):
                    await sent.wait()
            except TimeoutError:
                await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})


def _starts_events(message: Message) -> bool:
    if message["type"] != "http.response.start":
        return False
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")


def _log(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """Log a response in one line. The path is shown as it was sent, without control characters and without a query."""
    path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")[:MAX_PATH]
    client = (scope.get("client") or ["unknown"])[0]
    level = logging.DEBUG if path in PROBES and status == 200 else logging.INFO
    values = {"client": client, "method": scope["method"], "path": path, "status": status}
    values |= {"seconds": round(seconds, 3), "request_id": request_id}
    log.log(level, '%s "%s %s" %d in %.3f s, %s', *values.values(), extra=values)


def _head_bytes(scope: Scope) -> int:
    """Of the address and the headers. The HTTP server bounds what is not whole yet, and lets pass what comes whole."""
    address = len(scope.get("raw_path", b"")) + len(scope["query_string"])
    return address + sum(len(name) + len(value) for name, value in scope["headers"])


def _limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    """The messages of one request. Raises an HTTPException when the body is announced, or found, to be too large."""
    received = 0
    announced = Headers(scope=scope).get("content-length", "")

    async def limited() -> Message:
        nonlocal received
        if not received and announced.isdecimal() and int(announced) > limit:
            raise _too_large(f"the body of {announced} bytes", limit)
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large("the body", limit)
        return message

    return limited


def _too_large(what: str, limit: int) -> HTTPException:
    # Close, as the connection cannot be used again until the rest of the body has arrived.
    return HTTPException(413, f"{what} is larger than {limit} bytes; send less at once", {"Connection": "close"})
