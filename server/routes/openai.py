"""What the routes of OpenAI's shape share."""

import time
from collections.abc import Sequence

from starlette.responses import Response

from unmask.engine.request import Request
from unmask.server.backend import Backend
from unmask.server.caller import Caller
from unmask.server.reply.deltas import Echo
from unmask.server.reply.openai import OpenAIReply, Shape
from unmask.server.reply.sse import EventStream
from unmask.server.tools.calling import Calling
from unmask.server.wire.openai import OpenAIFields


async def respond(
    body: OpenAIFields,
    requests: Sequence[Request],
    caller: Caller,
    backend: Backend,
    shape: Shape,
    echoes: Sequence[Echo] = (),
    calling: Calling | None = None,
) -> Response:
    """Run the requests and answer in the endpoint's shape."""
    head = {
        "id": f"{shape.prefix}-{caller.id}",
        "object": shape.chunk if body.stream else shape.object,
        "created": int(time.time()),
        "model": caller.model,
    }
    generations = await backend.submit(requests, bool(body.stream), caller, calling)
    reply = OpenAIReply(body, generations, backend.model.tokenizer, head, shape, echoes)
    if body.stream:
        return EventStream(reply.chunks(), generations.close)
    return await caller.wait(reply.whole())
