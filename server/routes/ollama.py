"""Ollama's endpoints, below `/api`: what its clients ask for, of the one model that is served."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from unmask.server.backend import Backend
from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_ollama
from unmask.server.reply.ollama import OllamaReply, utc
from unmask.server.reply.sse import EventStream
from unmask.server.routes.common import ERRORS, BackendOf, check_model
from unmask.server.wire.ollama import (
    LATEST,
    OllamaCard,
    OllamaChatRequest,
    OllamaChatResponse,
    OllamaError,
    OllamaGenerateRequest,
    OllamaGenerateResponse,
    OllamaLoaded,
    OllamaModel,
    OllamaModels,
    OllamaNamed,
    tagged,
)

LINES = "application/x-ndjson"
NDJSON: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or without `stream: false` lines of it", "content": {LINES: {}}}
}
_ERRORS: dict[int | str, dict[str, Any]] = {status: {**told, "model": OllamaError} for status, told in ERRORS.items()}

router = APIRouter(tags=["Ollama"], responses=_ERRORS, route_class=BodyRoute)


@router.post("/api/chat", response_model=OllamaChatResponse, responses=NDJSON)
async def chat(body: OllamaChatRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Ollama's chat: text and tools. It streams unless told not to."""
    return await _respond(body, http, backend)


@router.post("/api/generate", response_model=OllamaGenerateResponse | OllamaLoaded, responses=NDJSON)
async def generate(body: OllamaGenerateRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Ollama's answer to a prompt. It streams unless told not to."""
    if not body.asks_nothing:
        return await _respond(body, http, backend)
    name = _check_model(body.model, backend)
    loaded = OllamaLoaded(model=tagged(name), created_at=utc(datetime.now(UTC)))
    return JSONResponse(loaded.model_dump())


async def _respond(body: OllamaChatRequest | OllamaGenerateRequest, http: HTTPRequest, backend: Backend) -> Response:
    name = _check_model(body.model, backend)
    fields, streams = body.fields, body.stream is not False
    caller = Caller(http, fields.timeout, backend.settings, name)
    requests, calling = await backend.parse(parse_ollama, body, caller)
    generations = await backend.submit(requests, streams, caller, calling)
    reply = OllamaReply(tagged(name), generations, bool(fields.return_steps), isinstance(body, OllamaChatRequest))
    if streams:
        return EventStream(reply.lines(), generations.close, LINES)
    return await caller.wait(reply.whole())


@router.get("/api/ps")
@router.get("/api/tags")
async def tags(backend: BackendOf) -> OllamaModels:
    """The model that is served, with each of its adapters, as Ollama lists its own, and those that are loaded."""
    names = map(tagged, backend.model_names)
    return OllamaModels(models=[OllamaModel(name=name, model=name, **_known(backend)) for name in names])


@router.post("/api/show")
async def show(body: OllamaNamed, backend: BackendOf) -> OllamaCard:
    """What is known of the model."""
    _check_model(body.model, backend)
    model = backend.model
    able = {
        "completion": True,
        "insert": model.network.architecture.block_size is None,
        "tools": model.tokenizer.has_chat_template and not backend.settings.ignore_tools,
    }
    return OllamaCard(
        **_known(backend),
        template=model.tokenizer.chat_template or "",
        capabilities=[name for name, can in able.items() if can],
        model_info={"general.architecture": "unmask", "unmask.context_length": model.max_positions},
    )


@router.get("/api/version")
async def get_version() -> dict[str, str]:
    """The version of this server."""
    return {"version": version("unmask")}


def _check_model(name: str | None, backend: Backend) -> str:
    """The name of the model or adapter that a request asks for, with or without Ollama's tag."""
    return check_model(name if name in backend.model_names else name and name.removesuffix(LATEST), backend)


def _known(backend: Backend) -> dict[str, Any]:
    started = utc(datetime.fromtimestamp(backend.created, UTC))
    return {"modified_at": started, "details": {"format": "safetensors"}}
