"""What `/v1/completions` and `/v1/chat/completions` have in common: OpenAI's way to answer, whole or as a stream.

A stream carries only text that can no longer change: it grows with the settled prefix, so short blocks make it flow
and one block over the whole length makes it come late and in bursts.
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from engine.request import Request, Result
from engine.service import EngineError
from server.answers import diffusion, token_steps, usage
from server.backend import Backend
from server.errors import error_body
from server.pieces import Piece, pieces, whole
from server.streams import EventStream, Generations, event, unless_disconnected
from server.wire.openai import OpenAIFields

END_OF_STREAM = "data: [DONE]\n\n"

JSON = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How one endpoint writes its answers.

    prefix    of ids
    object    what a whole answer calls itself, and `chunk` a piece of one
    choice    the fields of a whole choice, and `delta` those of a piece of one
    opening   those of what a stream begins each choice with, if it does
    """

    prefix: str
    object: str
    chunk: str
    choice: Callable[[Piece], JSON]
    delta: Callable[[Piece], JSON]
    opening: JSON = field(default_factory=dict)


async def respond(
    body: OpenAIFields, requests: Sequence[Request], http: HTTPRequest, backend: Backend, shape: Shape
) -> Response:
    """Run the requests and answer in the endpoint's shape."""
    head = {
        "id": f"{shape.prefix}-{http.state.request_id}",
        "object": shape.chunk if body.stream else shape.object,
        "created": int(time.time()),
        "model": backend.model_name,
    }
    generations = backend.submit(requests, every_step=bool(body.stream))
    if body.stream:
        return EventStream(_chunks(generations, body, head, shape), generations.close)
    return await unless_disconnected(http, _whole(generations, body, head, shape))


async def _whole(generations: Generations, body: OpenAIFields, head: JSON, shape: Shape) -> Response:
    try:
        results = await generations.results()
    finally:
        generations.close()
    choices = [_choice(whole(i, result), shape.choice, body) for i, result in enumerate(results)]
    return JSONResponse(head | {"choices": choices} | _summary(generations, body, results))


async def _chunks(generations: Generations, body: OpenAIFields, head: JSON, shape: Shape) -> AsyncIterator[str]:
    """The stream: pieces of each choice as they settle; the last chunk holds `diffusion`, and `usage` if asked for."""
    with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    common = head | ({"usage": None} if with_usage else {})
    results: dict[int, Result] = {}
    if shape.opening:
        for i in range(len(generations.requests)):
            yield event(common | {"choices": [{"index": i, **shape.opening, "logprobs": None, "finish_reason": None}]})
    try:
        async for piece in pieces(generations):
            chunk = common | {"choices": [_choice(piece, shape.delta, body)]}
            if piece.result is not None:
                results[piece.choice] = piece.result
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


def _choice(piece: Piece, fields: Callable[[Piece], JSON], body: OpenAIFields) -> JSON:
    result = piece.result
    choice = {"index": piece.choice, **fields(piece), "logprobs": None}
    choice["finish_reason"] = result.finish_reason if result else None
    return choice | (token_steps(result) if result and body.return_steps else {})


def _summary(generations: Generations, body: OpenAIFields, results: list[Result]) -> JSON:
    return {
        "usage": usage(results, body.n or 1).model_dump(),
        "diffusion": diffusion(generations.requests, results, bool(body.return_steps)),
    }
