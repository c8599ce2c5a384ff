"""What happens to every response: its id, its count, and an answer where there would be none."""

import re
import uuid
from http import HTTPMethod

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response
from server.metrics import Metrics

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Observe:
    """Echoes `X-Request-Id` or makes one (`request.state.request_id`), counts responses, answers unforeseen exceptions.

    Refuses bodies that no prompt needs. Plain ASGI: it neither buffers a stream nor hides that the client has left.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_body_bytes: int):
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def observed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
                self._count(scope, message["status"])
            await send(message)

        try:
            await self._app(scope, _limited(receive, scope, self._max_body_bytes), observed)
        except Exception as error:
            if not started:
                await error_response(error)(scope, receive, observed)
            raise  # the server logs it

    def _count(self, scope: Scope, status: int) -> None:
        method = scope["method"] if scope["method"] in HTTPMethod.__members__ else "other"
        self._metrics.count_http(method, getattr(scope.get("route"), "path", "other"), status)


def _limited(receive: Receive, scope: Scope, limit: int) -> Receive:
    """The messages of one request, unless its body says that it is too large, or turns out to be."""
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
    # Closing, as the connection cannot be used again until the rest of the body has come.
    return HTTPException(413, f"{what} is larger than {limit} bytes; send less at once", {"Connection": "close"})
