"""Server-sent events: how a stream is written and how it ends."""

import json
from collections.abc import AsyncIterator, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# JSON leaves these as they are, and readers that split lines as Unicode does would break events at them.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


class EventStream(StreamingResponse):
    """A stream of server-sent events, or of another kind. `close` is called when it ends, even before it begins."""

    def __init__(self, events: AsyncIterator[str], close: Callable[[], None], kind: str = "text/event-stream"):
        # X-Accel-Buffering makes nginx forward each event at once.
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}, media_type=kind)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


def event(data: object, name: str | None = None) -> str:
    """One server-sent event: JSON, with a name or without."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {to_json(data)}\n\n"


def to_json(data: object) -> str:
    """JSON without spaces and without characters that some readers take for line ends. Raises ValueError for NaN."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_LINE_ENDS)
