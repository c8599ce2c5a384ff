"""`POST /v1/messages` and what counts its tokens: Anthropic's shape, through the model's chat template."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_count, parse_messages
from unmask.server.reply.anthropic import MessagesReply
from unmask.server.reply.sse import EventStream
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.wire.anthropic import CountRequest, CountResponse, MessagesRequest, MessagesResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/v1/messages", response_model=MessagesResponse, responses=SSE)
async def messages(body: MessagesRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Anthropic's messages: text and tools."""
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    requests, calling = await backend.parse(parse_messages, body, caller)
    head = {"id": f"msg_{caller.id}", "type": "message", "role": "assistant", "model": caller.model}
    generations = await backend.submit(requests, bool(body.stream), caller, calling)
    reply = MessagesReply(body, generations, head)
    if body.stream:
        return EventStream(reply.events(), generations.close)
    return await caller.wait(reply.whole())


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, http: HTTPRequest, backend: BackendOf) -> CountResponse:
    """How many tokens a conversation has."""
    caller = Caller(http, None, backend.settings, check_model(body.model, backend))
    tokens = await backend.parse(parse_count, body, caller)
    return CountResponse(input_tokens=len(tokens))
