"""`POST /api/chat` and `GET /api/tags`: Ollama's shape, through the model's chat template."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.requests import parse_ollama
from unmask.server.reply.ollama import OllamaReply, utc
from unmask.server.reply.sse import EventStream
from unmask.server.routes.common import ERRORS, BackendOf, check_model
from unmask.server.wire.ollama import OllamaChatRequest, OllamaChatResponse, OllamaModel, OllamaModels

LINES = "application/x-ndjson"
NDJSON: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or without `stream: false` lines of it", "content": {LINES: {}}}
}
LATEST = ":latest"  # which Ollama's clients add to a name without a tag

router = APIRouter(tags=["generation"], responses=ERRORS, route_class=BodyRoute)


@router.post("/api/chat", response_model=OllamaChatResponse, responses=NDJSON)
async def chat(body: OllamaChatRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Ollama's chat: text and tools. It streams unless told not to."""
    name = check_model(body.model and body.model.removesuffix(LATEST), backend)
    fields, streams = body.fields, body.stream is not False
    caller = Caller(http, fields.timeout, backend.settings, name)
    requests, calling = await backend.parse(parse_ollama, body, caller)
    generations = await backend.submit(requests, streams, caller, calling)
    reply = OllamaReply(caller.model, generations, bool(fields.return_steps))
    if streams:
        return EventStream(reply.lines(), generations.close, LINES)
    return await caller.wait(reply.whole())


@router.get("/api/tags")
async def tags(backend: BackendOf) -> OllamaModels:
    """The model that is served, with each of its adapters, as Ollama lists its own."""
    names, started = backend.model_names, utc(datetime.fromtimestamp(backend.created, UTC))
    details = {"format": "safetensors"}
    return OllamaModels(
        models=[OllamaModel(name=name, model=name, modified_at=started, details=details) for name in names]
    )
