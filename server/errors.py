"""The errors of the HTTP API, and the one place that turns an exception into a status.

Exception
  HTTPError            raised by the server
    BadRequestError    400  the request is invalid; `param` names the field
    UnauthorizedError  401  the request has no API key, or an unknown one
    UnknownModelError  404  the request names a model that is not served
    HeadTooLargeError  431  the address and the headers are too long
    NotReadyError      503  the model is not loaded yet, or could not be
    ClientLeftError    499  the client has closed the connection; only the metrics see it
  OptionError, UnknownSchedulerError   400  from the schedulers
  RequestError         400  from the engine: the request does not fit the model or the machine
  SchedulerError       500  from the engine: the scheduler of the request cannot be made
  ChatTemplateError    400  from the tokenizer
  EngineError          500  the engine failed
    DeadlineError      408  the request took too long
    QueueFullError     429  the queue is full
    EngineStoppedError 503  the server is stopping
    SchedulerFailedError 500  the scheduler of the request raised
    ModelNotFiniteError 500  the model computed NaN for the request
    OutOfMemoryError   503  the device had no memory for the request
  HTTPException        404, 405, 413, 415, ...  from the framework's routing, and the reading of bodies
  any other            500  a fault of the server
"""

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from unmask.engine.errors import RequestError, SchedulerError
from unmask.engine.service import (
    EngineError,
    EngineStoppedError,
    ModelNotFiniteError,
    OutOfMemoryError,
    QueueFullError,
    SchedulerFailedError,
)
from unmask.models.errors import ChatTemplateError
from unmask.schedulers import OptionError, UnknownSchedulerError

RETRY_AFTER_SECONDS = 1
OLLAMA = "/api/"  # before the paths of its endpoints
MAX_MESSAGE = 1000  # characters; a message may quote the client
MAX_PARAM = 60  # characters; a name may be the client's

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = 60


class HTTPError(Exception):
    """An error with a message for the client, and the field that is wrong."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param = param
        self.code = code


class BadRequestError(HTTPError):
    """The request is invalid."""


class UnauthorizedError(HTTPError):
    """The request has no API key, or an unknown one."""


class UnknownModelError(HTTPError):
    """The request names a model that is not served."""


class HeadTooLargeError(HTTPError):
    """The address and the headers are too long."""


class NotReadyError(HTTPError):
    """The model is not loaded yet, or could not be."""


class ClientLeftError(HTTPError):
    """The client has closed the connection."""


class DeadlineError(EngineError):
    """The request took longer than it, or the server, allows."""


@dataclass(frozen=True)
class _Kind:
    status: int
    type: str
    code: str | None = None


# The types are OpenAI's words. Clients retry 429 and 5xx by themselves.
_KINDS: dict[type[Exception], _Kind] = {
    BadRequestError: _Kind(400, "invalid_request_error"),
    UnauthorizedError: _Kind(401, "authentication_error", "invalid_api_key"),
    UnknownModelError: _Kind(404, "invalid_request_error", "model_not_found"),
    HeadTooLargeError: _Kind(431, "invalid_request_error", "head_too_large"),
    NotReadyError: _Kind(503, "unavailable_error", "not_ready"),
    ClientLeftError: _Kind(499, "client_error", "client_left"),  # nginx's status for it
    OptionError: _Kind(400, "invalid_request_error", "invalid_option"),
    UnknownSchedulerError: _Kind(400, "invalid_request_error", "unknown_scheduler"),
    RequestError: _Kind(400, "invalid_request_error"),
    ChatTemplateError: _Kind(400, "invalid_request_error", "chat_template"),
    QueueFullError: _Kind(429, "rate_limit_error", "queue_full"),
    EngineStoppedError: _Kind(503, "unavailable_error", "stopping"),
    DeadlineError: _Kind(408, "timeout_error", "timeout"),
    SchedulerError: _Kind(500, "server_error", "scheduler_failed"),
    SchedulerFailedError: _Kind(500, "server_error", "scheduler_failed"),
    ModelNotFiniteError: _Kind(500, "server_error", "model_not_finite"),
    OutOfMemoryError: _Kind(503, "unavailable_error", "out_of_memory"),
    EngineError: _Kind(500, "server_error", "engine_failed"),
    Exception: _Kind(500, "server_error", "internal_error"),
}

# 401: send a key. 408: do not retry, it would take as long. 429 and 503: retry after a pause.
_WAIT = {"Retry-After": str(RETRY_AFTER_SECONDS)}
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 408: {"X-Should-Retry": "false"}, 429: _WAIT, 503: _WAIT}


def show(value: object) -> str:
    """A value from the client, shortened for an error message."""
    return _shorten.repr(value)


def error_body(error: BaseException) -> dict[str, Any]:
    """The `error` object of an exception, in OpenAI's shape."""
    kind = _kind(error)
    # The message of an unforeseen exception may hold anything, so only the log has it.
    message = str(error) if kind is not _KINDS[Exception] else "the server failed; its log says why"
    param: str | None = getattr(error, "param", None)
    return {
        "message": message[:MAX_MESSAGE],
        "type": kind.type,
        "param": param and param[:MAX_PARAM],
        "code": getattr(error, "code", None) or kind.code,
    }


def error_response(error: BaseException, path: str) -> Response:
    """The response to an exception, in the shape that the clients of a path know."""
    status = _kind(error).status
    return _json(error_body(error), path, status, _HEADERS.get(status))


def add_error_handlers(app: FastAPI, paths: Iterable[str]) -> None:
    """Answer every exception in OpenAI's shape. The middleware answers unforeseen ones.

    paths  that clients may have meant
    """

    async def known(request: Request, error: Exception) -> Response:
        return error_response(error, request.url.path)

    async def framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _from_framework(error, request, paths)

    for kind in _KINDS.keys() - {Exception}:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(HTTPException, framework)


def _kind(error: BaseException) -> _Kind:
    return next((_KINDS[base] for base in type(error).__mro__ if base in _KINDS), _KINDS[Exception])


def _from_framework(error: HTTPException, request: Request, paths: Iterable[str]) -> Response:
    status = HTTPStatus(error.status_code)
    where = f"{request.method} {show(request.url.path)}"
    messages = {
        404: f"there is no route {where}; {_nearest(request.url.path, paths)}",
        405: f"{where} is not allowed; see /docs",
    }
    message = messages.get(status, str(error.detail))
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": status.name.lower()}
    return _json(body, request.url.path, status, error.headers)


def _nearest(asked: str, paths: Iterable[str]) -> str:
    """What to do about a path that does not exist: often a client's base URL has no `/v1`, or has it twice."""
    if (near := next((path for path in paths if _parts(path) == _parts(asked)), None)) is None:
        return "see /docs"
    return f"did you mean {near!r}?" + ("; an OpenAI client's base URL ends in /v1" if near.startswith("/v1/") else "")


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", "v1")]


def _json(error: dict[str, Any], path: str, status: int, headers: Mapping[str, str] | None) -> Response:
    # Ollama's clients take `error` for a text.
    body = {**error, "error": error["message"]} if path.startswith(OLLAMA) else {"error": error}
    # Escaped to ASCII: an error may quote a lone surrogate, which has no UTF-8.
    return Response(json.dumps(body, allow_nan=False), status, headers, "application/json")
