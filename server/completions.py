"""`POST /v1/completions`: OpenAI's shape, for clients that know nothing of diffusion."""

import asyncio

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from server.answers import ERRORS, SSE, BackendOf, check_model
from server.openai import JSON, Shape, respond
from server.parse import parse_completion
from server.pieces import Piece
from server.wire.completions import CompletionRequest, CompletionResponse

router = APIRouter(tags=["generation"], responses=ERRORS)


@router.post("/v1/completions", response_model=CompletionResponse, responses=SSE)
async def completions(body: CompletionRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """OpenAI's completions. Our fields stand beside theirs, and `diffusion` in the response or the last chunk."""
    model = backend.model
    check_model(body.model, backend.model_name)
    requests = await asyncio.to_thread(parse_completion, body, model, backend.settings)
    return await respond(body, requests, http, backend, SHAPE)


def _text(piece: Piece) -> JSON:
    return {"text": piece.text}


SHAPE = Shape("cmpl", "text_completion", "text_completion", choice=_text, delta=_text)
