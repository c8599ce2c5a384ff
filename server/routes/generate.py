"""`POST /generate`, the native endpoint, which can stream every step."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_generate
from unmask.server.reply.native import NativeReply
from unmask.server.reply.sse import EventStream
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.wire.generate import GenerateRequest, GenerateResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/generate", response_model=GenerateResponse, responses=SSE)
async def generate(body: GenerateRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Fill the masks after one of `prompt`, `messages` and `input_ids`, or those of a `canvas`.

    With `stream`, server-sent events: `start`; a `step` for each forward pass, and a `block` when one is finished;
    `done`, or `error`. Positions count from the start of the generation region. The texts of all blocks are the answer.
    """
    model = backend.model
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    request, region = await backend.parse(parse_generate, body, caller)
    head = {"id": f"gen-{caller.id}", "model": caller.model}
    generations = await backend.submit([request], bool(body.stream), caller)
    reply = NativeReply(body, region, generations, model, head)
    if body.stream:
        return EventStream(reply.events(), generations.close)
    return await caller.wait(reply.whole())
