"""What the endpoints share: the backend, the check of the model's name, and the errors that they document."""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request as HTTPRequest

from unmask.server.backend import Backend
from unmask.server.errors import UnknownModelError, show
from unmask.server.wire.responses import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "the request is invalid; `param` names the field"},
    401: {"model": ErrorResponse, "description": "the server needs an API key"},
    404: {"model": ErrorResponse, "description": "the model is not served"},
    408: {"model": ErrorResponse, "description": "the request was not done in time"},
    413: {"model": ErrorResponse, "description": "the body is too large"},
    429: {"model": ErrorResponse, "description": "too many requests are waiting"},
    500: {"model": ErrorResponse, "description": "the server failed"},
    503: {"model": ErrorResponse, "description": "the model is loading, or the server is stopping"},
}

SSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "JSON, or server-sent events with `stream`", "content": {"text/event-stream": {}}}
}


async def _backend(http: HTTPRequest) -> Backend:
    backend: Backend = http.app.state.backend
    return backend


BackendOf = Annotated[Backend, Depends(_backend)]


def check_model(asked: str | None, backend: Backend) -> str:
    """The name of the model or adapter that a request asks for, or of the model if it names none.

    Raises UnknownModelError if that is not served.
    """
    names = backend.model_names
    if asked and asked not in names:
        served = " and ".join(map(repr, names))
        raise UnknownModelError(f"model {show(asked)} is not served; this server has {served}", "model")
    return asked or names[0]
