"""`POST /generate`, the native endpoint: every step can be watched."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from unmask.engine.request import Request, Result, Reveal, Step
from unmask.engine.service import EngineError
from unmask.models.loading import Model
from unmask.server.answers import ERRORS, SSE, BackendOf, check_model, diffusion, token_steps, usage
from unmask.server.bodies import BodyRoute
from unmask.server.caller import Caller
from unmask.server.canvas import region_of
from unmask.server.errors import error_body
from unmask.server.parse import parse_generate
from unmask.server.streams import EventStream, Generations, event
from unmask.server.wire.generate import GenerateRequest, GenerateResponse

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/generate", response_model=GenerateResponse, responses=SSE)
async def generate(body: GenerateRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Fill a canvas after one of `prompt`, `messages` and `input_ids`, or one that is given as `canvas`.

    With `stream`, server-sent events: `start`; a `step` for each forward pass, and a `block` when one is finished;
    `done`, or `error`. Positions count from the start of the generation region; the blocks' texts make up the whole.
    """
    model = backend.model
    check_model(body.model, backend.model_name)
    caller = Caller(http, body.timeout, backend.settings)
    request = await caller.wait(backend.workers.run(parse_generate, body, model, backend.settings))
    head = {"id": f"gen-{caller.id}", "model": backend.model_name}
    generations = backend.submit([request], bool(body.stream), caller)
    if body.stream:
        return EventStream(_events(generations, body, model, head), generations.close)
    return await caller.wait(_whole(generations, body, model, head))


async def _whole(generations: Generations, body: GenerateRequest, model: Model, head: dict[str, Any]) -> Response:
    try:
        (result,) = await generations.results()
    finally:
        generations.close()
    told = await asyncio.to_thread(_done, generations, body, model, result)
    return JSONResponse(head | {"usage": usage([result]).model_dump()} | told)


async def _events(
    generations: Generations, body: GenerateRequest, model: Model, head: dict[str, Any]
) -> AsyncIterator[str]:
    yield event(head | _start(generations.requests[0], body, model), "start")
    sent = 0  # characters of settled text
    try:
        async for _, step in generations.steps():
            yield event(_step(step, model), "step")
            if step.ended or step.result is not None:
                yield event({"index": step.block, "text": step.text[sent:]}, "block")
                sent = len(step.text)
            if step.result is not None:
                yield event(await asyncio.to_thread(_done, generations, body, model, step.result), "done")
    except EngineError as error:
        yield event(error_body(error), "error")


def _start(request: Request, body: GenerateRequest, model: Model) -> dict[str, Any]:
    pinned = [
        (i, token, model.tokenizer.token_text(token)) for i, token in enumerate(request.template) if token is not None
    ]
    return {
        "prompt_tokens": len(request.prompt) + len(request.suffix) + len(pinned),
        "length": request.max_tokens,
        "block_length": request.block_length,
        "scheduler": request.scheduler.as_json(),
    } | ({"pinned": pinned} if body.canvas is not None else {})


def _step(step: Step, model: Model) -> dict[str, Any]:
    seen = {"step": step.index, "revealed": _tokens(step.revealed, model), "remasked": step.remasked}
    return seen | ({"written": _tokens(step.written, model)} if step.written else {})


def _tokens(reveals: Sequence[Reveal], model: Model) -> list[tuple[int, int, str, float]]:
    text = model.tokenizer.token_text
    return [(one.position, one.token_id, text(one.token_id), round(one.probability, 6)) for one in reveals]


def _done(generations: Generations, body: GenerateRequest, model: Model, result: Result) -> dict[str, Any]:
    with_steps = bool(body.return_steps)
    done = {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "diffusion": diffusion(generations.requests, [result], with_steps),
    }
    if body.canvas is not None:
        around = region_of(body.canvas, body.mask_marker, (), model)
        done["canvas"] = model.tokenizer.decode([*around.prompt, *result.token_ids, *around.suffix])
    return done | (token_steps(result) if with_steps else {})
