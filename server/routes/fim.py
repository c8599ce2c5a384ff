"""`POST /v1/fim/completions`: filling in the middle, for editors that know Mistral's or Inception's endpoint."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_fim
from unmask.server.reply.deltas import Delta
from unmask.server.reply.logprobs import completion_logprobs
from unmask.server.reply.openai import JSON, Shape
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.routes.openai import respond
from unmask.server.wire.fim import FimRequest, FimResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/v1/fim/completions", response_model=FimResponse, responses=SSE)
async def fim_completions(body: FimRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """A text that fits between `prompt` and `suffix`, of at most `max_tokens` tokens."""
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    requests = await backend.parse(parse_fim, body, caller)
    return await respond(body, requests, caller, backend, SHAPE)


def _choice(delta: Delta) -> JSON:
    return {"text": delta.text, "message": {"role": "assistant", "content": delta.text, "refusal": None}}


def _delta(delta: Delta) -> JSON:
    return {"text": delta.text, "delta": {"role": "assistant", "content": delta.text}}


SHAPE = Shape("fim", "text_completion", "text_completion", choice=_choice, delta=_delta, logprobs=completion_logprobs)
