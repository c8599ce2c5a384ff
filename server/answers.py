"""What the responses of the generation endpoints have in common."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request as HTTPRequest

from unmask.engine.figures import figures
from unmask.engine.order import global_ar_ness, local_ar_ness, reveal_order
from unmask.engine.request import Request, Result
from unmask.server.backend import Backend
from unmask.server.errors import UnknownModelError, show
from unmask.server.wire.answers import ArNess, Diffusion, ErrorResponse, Usage

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "the request is wrong; `param` names the field"},
    401: {"model": ErrorResponse, "description": "the server wants an API key"},
    404: {"model": ErrorResponse, "description": "the model is not served here"},
    408: {"model": ErrorResponse, "description": "the request was not done in time"},
    413: {"model": ErrorResponse, "description": "the body is too large"},
    429: {"model": ErrorResponse, "description": "too many requests are waiting"},
    500: {"model": ErrorResponse, "description": "a fault of the server"},
    503: {"model": ErrorResponse, "description": "the model is loading, or the server going down"},
}

SSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or server-sent events with `stream`", "content": {"text/event-stream": {}}}
}


async def _backend(http: HTTPRequest) -> Backend:
    backend: Backend = http.app.state.backend
    return backend


BackendOf = Annotated[Backend, Depends(_backend)]


def check_model(asked: str | None, served: str) -> None:
    """Raise UnknownModelError unless the request asks for the model that is served, or leaves it open."""
    if asked and asked != served:
        raise UnknownModelError(f"model {show(asked)} is not served here; the model is {served!r}", "model")


def usage(results: Sequence[Result], n: int = 1) -> Usage:
    """Tokens in and out, of choices that come n for a prompt; a prompt counts once."""
    prompt = sum(result.prompt_tokens for result in results[::n])
    completion = sum(result.generated for result in results)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def token_steps(result: Result) -> dict[str, Any]:
    """The fields of `TokenSteps`."""
    reveals = {reveal.position: reveal for reveal in result.reveals}
    tokens = [reveals.get(position) for position in result.positions]
    return {
        "token_steps": [token and token.step for token in tokens],
        "token_confidences": [token and round(token.probability, 6) for token in tokens],
    }


def diffusion(requests: Sequence[Request], results: Sequence[Result], with_order: bool) -> dict[str, Any]:
    """The fields of `Diffusion`: how the results came about. The requests differ in prompt and seed only."""
    order = _ar_ness(results) if with_order else None
    told = Diffusion(**asdict(figures(requests, results)), ar_ness=order)
    return told.model_dump(exclude_none=True, by_alias=True)


def _ar_ness(results: Sequence[Result]) -> ArNess:
    orders = [reveal_order(result) for result in results]
    local, overall = (fmean(map(measure, orders)) for measure in (local_ar_ness, global_ar_ness))
    return ArNess.model_validate({"local": round(local, 6), "global": round(overall, 6)})
