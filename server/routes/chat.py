"""`POST /v1/chat/completions`: OpenAI's shape, through the model's chat template."""

import uuid

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_chat
from unmask.server.reply.deltas import Delta
from unmask.server.reply.logprobs import chat_logprobs
from unmask.server.reply.openai import JSON, Shape
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.routes.openai import respond
from unmask.server.tools.hermes import Call
from unmask.server.wire.chat import ChatRequest, ChatResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/v1/chat/completions", response_model=ChatResponse, responses=SSE)
async def chat_completions(body: ChatRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """OpenAI's chat completions. They also take our fields; `diffusion` is in the response or the last chunk."""
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    requests, calling = await backend.parse(parse_chat, body, caller)
    return await respond(body, requests, caller, backend, SHAPE, calling=calling)


def _message(delta: Delta) -> JSON:
    message: JSON = {"role": "assistant", "content": delta.text, "refusal": None}
    if delta.calls:
        message |= {"content": delta.text or None, "tool_calls": [_call(call) for call in delta.calls]}
    return {"message": message}


def _delta(delta: Delta) -> JSON:
    content: JSON = {"content": delta.text} if delta.text else {}
    calls = [{"index": delta.called + i, **_call(call)} for i, call in enumerate(delta.calls)]
    return {"delta": content | ({"tool_calls": calls} if calls else {})}


def _call(call: Call) -> JSON:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}


SHAPE = Shape(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    choice=_message,
    delta=_delta,
    logprobs=lambda delta, tokenizer: chat_logprobs(delta.tokens, tokenizer),
    prompt_ids="response",
    opening={"delta": {"role": "assistant", "content": ""}},
)
