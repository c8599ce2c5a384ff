"""`POST /v1/completions`: OpenAI's shape, for clients that know nothing of diffusion.

A stream carries only text that can no longer change: it grows with the settled prefix, so short blocks make it flow
and one block over the whole length makes it come late and in bursts.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from engine.request import Result
from engine.service import EngineError
from server.answers import ERRORS, SSE, BackendOf, check_model, diffusion, token_steps, usage
from server.errors import error_body
from server.parse import parse_completion
from server.streams import EventStream, Generations, event, unless_disconnected
from server.wire.completions import CompletionRequest, CompletionResponse

router = APIRouter(tags=["generation"], responses=ERRORS)

END_OF_STREAM = "data: [DONE]\n\n"


@router.post("/v1/completions", response_model=CompletionResponse, responses=SSE)
async def completions(body: CompletionRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """OpenAI's completions. Our fields stand beside theirs, and `diffusion` in the response or the last chunk."""
    model = backend.model
    check_model(body.model, backend.model_name)
    requests = await asyncio.to_thread(parse_completion, body, model, backend.settings)
    head = {
        "id": f"cmpl-{http.state.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": backend.model_name,
    }
    generations = backend.submit(requests, every_step=bool(body.stream))
    if body.stream:
        return EventStream(_chunks(generations, body, head), generations.close)
    return await unless_disconnected(http, _whole(generations, body, head))


async def _whole(generations: Generations, body: CompletionRequest, head: dict[str, Any]) -> Response:
    try:
        results = await generations.results()
    finally:
        generations.close()
    choices = [_choice(index, result.text, result, body) for index, result in enumerate(results)]
    return JSONResponse(head | {"choices": choices} | _summary(generations, body, results))


async def _chunks(generations: Generations, body: CompletionRequest, head: dict[str, Any]) -> AsyncIterator[str]:
    """The stream: pieces of each choice as they settle; the last chunk holds `diffusion`, and `usage` if asked for."""
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    common = head | ({"usage": None} if with_usage else {})
    results: dict[int, Result] = {}
    try:
        async for index, text, result in _pieces(generations):
            chunk = common | {"choices": [_choice(index, text, result, body)]}
            if result is not None:
                results[index] = result
            if len(results) < len(generations.requests):
                yield event(chunk)
                continue
            summary = _summary(generations, body, [results[i] for i in sorted(results)])
            if with_usage:
                yield event(chunk)
                yield event(head | {"choices": []} | summary)
            else:
                yield event(chunk | {"diffusion": summary["diffusion"]})
    except EngineError as error:
        yield event({"error": error_body(error)})
    yield END_OF_STREAM


async def _pieces(generations: Generations) -> AsyncIterator[tuple[int, str, Result | None]]:
    """(choice, text settled since its last piece, result with its last piece). No piece is empty but a last one."""
    sent = [0] * len(generations.requests)
    async for index, step in generations.steps():
        text, sent[index] = step.text[sent[index] :], len(step.text)
        if text or step.result is not None:
            yield index, text, step.result


def _choice(index: int, text: str, result: Result | None, body: CompletionRequest) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None}
    choice["finish_reason"] = result.finish_reason if result else None
    return choice | (token_steps(result) if result and body.return_steps else {})


def _summary(generations: Generations, body: CompletionRequest, results: list[Result]) -> dict[str, Any]:
    requests = generations.requests
    return {
        "usage": usage(results, body.n or 1).model_dump(),
        "diffusion": diffusion(requests, results, bool(body.return_steps)),
    }
