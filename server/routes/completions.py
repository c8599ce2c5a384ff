"""`POST /v1/completions`: OpenAI's shape, for clients that do not know diffusion."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.engine.request import Request
from unmask.engine.scoring import left_to_right
from unmask.server.backend import Backend
from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.prompts import split_prompts
from unmask.server.parse.requests import parse_completion
from unmask.server.reply.deltas import Delta, Echo, Token
from unmask.server.reply.logprobs import completion_logprobs
from unmask.server.reply.openai import JSON, Shape
from unmask.server.routes.common import ERRORS, SSE, BackendOf, check_model
from unmask.server.routes.openai import respond
from unmask.server.wire.completions import CompletionRequest, CompletionResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/v1/completions", response_model=CompletionResponse, responses=SSE)
async def completions(body: CompletionRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """OpenAI's completions. They also take our fields; `diffusion` is in the response or the last chunk."""
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    requests = await backend.parse(parse_completion, body, caller)
    echoes = await caller.wait(_echoes(body, requests[:: body.n or 1], backend)) if body.echo else ()
    return await respond(body, requests, caller, backend, SHAPE, echoes)


async def _echoes(body: CompletionRequest, requests: Sequence[Request], backend: Backend) -> list[Echo]:
    """The prompts, to stand before the answers. A prompt that was given as a text keeps its text."""
    texts = [prompt for prompt in split_prompts(body.prompt) if isinstance(prompt, str)]
    decode = backend.model.tokenizer.decode
    texts = texts or await asyncio.to_thread(lambda: [decode(request.prompt) for request in requests])
    if body.logprobs is None:
        return [Echo(text) for text in texts]
    return [
        Echo(text, await _tokens(request, text, body.logprobs, backend))
        for request, text in zip(requests, texts, strict=True)
    ]


async def _tokens(request: Request, text: str, top: int, backend: Backend) -> tuple[Token, ...]:
    """The tokens of a prompt, each predicted from those before it; nothing predicts the first."""
    prompt = request.prompt
    first, *offsets = backend.model.tokenizer.offsets(prompt, text)
    questions = left_to_right(prompt, backend.model.mask_id)
    scored = await backend.score([replace(question, adapter=request.adapter) for question in questions], top)
    seen = [
        Token(token, one.log_probabilities[0], offset, one.top[0])
        for token, offset, one in zip(prompt[1:], offsets, scored, strict=True)
    ]
    return (Token(prompt[0], None, first), *seen)


def _text(delta: Delta) -> JSON:
    return {"text": delta.echo.text + delta.text}


SHAPE = Shape("cmpl", "text_completion", "text_completion", choice=_text, delta=_text, logprobs=completion_logprobs)
