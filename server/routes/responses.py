"""`POST /v1/responses`: OpenAI's newer shape, through the model's chat template."""

import time

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_responses
from unmask.server.reply.responses import ResponsesReply
from unmask.server.reply.sse import EventStream
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.wire.openai_responses import ResponsesRequest, ResponsesResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/v1/responses", response_model=ResponsesResponse, responses=SSE)
async def responses(body: ResponsesRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """OpenAI's responses: text and tools. Nothing is kept, so each request holds its whole conversation."""
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    requests, calling = await backend.parse(parse_responses, body, caller)
    name = caller.model
    head = {"id": f"resp_{caller.id}", "object": "response", "created_at": int(time.time()), "model": name}
    generations = await backend.submit(requests, bool(body.stream), caller, calling)
    reply = ResponsesReply(body, generations, head)
    if body.stream:
        return EventStream(reply.events(), generations.close)
    return await caller.wait(reply.whole())
