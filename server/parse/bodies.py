"""Reads the body of a request: on a thread, after counting what it holds, and only up to its first fault.

Parsing and validating JSON hold Python's lock during each call, on any thread, and the event loop waits. So a body is
counted first, in small pieces, and refused if it holds more than such a call handles in a moment.
"""

import asyncio
import math
import re
from collections.abc import Callable, Coroutine, Mapping
from email.message import Message as Header
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from unmask.errors import unknown
from unmask.server.errors import BadRequestError, ClientLeftError, show

BYTES_PER_POSITION = 16  # a token has about four characters, and a character up to six bytes in JSON
LEAST_BYTES = 1 << 20  # of the default; conversations have much around their texts
MOST_BYTES = 8 << 20  # of the default; a text of that size is parsed in a moment
MAX_VALUES = 1 << 18  # separated by commas; this many take a twentieth of a second
MAX_NAMES = 1 << 15  # objects, lists and names of fields, each of which costs as much as several numbers
MAX_DIGITS = 400  # of a number, more than any float has; the time to read one grows with their square
MAX_SHOWN = 40  # characters of an unknown name
PIECE = 1 << 16  # bytes per count

T = TypeVar("T", bound=BaseModel)

_LONG = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
_POWER = re.compile(rb"(?<![\d.])\d++(?:\.\d++)?[eE]\+?\d{3,}|NaN|Infinity")  # what may be no finite number
_CARRIED = 32  # bytes of a number that a piece may cut
_NO_OBJECT = "the body must be a JSON object, sent with the header 'content-type: application/json'"


def default_body_bytes(positions: int, prompts: int) -> int:
    """The largest useful body in bytes, for a model with `positions` and requests with up to `prompts` prompts."""
    return min(max(LEAST_BYTES, BYTES_PER_POSITION * positions * prompts), MOST_BYTES)


class BodyRoute(APIRoute):
    """A route whose body `read_body` reads. FastAPI would parse and validate all of it on the event loop."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        kind = self.body_field.field_info.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, BaseModel)

        async def read_first(request: Request) -> Response:
            if (coding := request.headers.get("content-encoding", "identity").lower()) not in ("", "identity"):
                message = f"content-encoding {show(coding)} is not supported; send the body as it is"
                raise HTTPException(415, message, {"Accept-Encoding": "identity"})
            if not _is_json(request.headers.get("content-type", "")):
                raise BadRequestError(_NO_OBJECT)
            try:
                raw = await request.body()
            except ClientDisconnect:
                raise ClientLeftError("the client has left before its body was there") from None
            return await handle(_ReadRequest(request, await asyncio.to_thread(read_body, raw, kind)))

        return read_first


class _ReadRequest(Request):
    """A request whose body has been read. FastAPI finds it valid, as it is of the endpoint's type."""

    def __init__(self, request: Request, body: BaseModel):
        super().__init__(request.scope, request.receive)
        self._read = body

    async def body(self) -> bytes:
        return b"{}"  # FastAPI checks only that there is a body

    async def json(self) -> BaseModel:
        return self._read


def read_body(raw: bytes, kind: type[T]) -> T:
    """The body as the endpoint's type. Raises BadRequestError about its first fault."""
    raw = raw.removeprefix(b"\xef\xbb\xbf")  # a byte order mark, as some editors write
    infinite = check_size(raw)
    try:
        read = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], kind) from None
    if infinite is not None:  # in a field that may hold any JSON
        raise BadRequestError(f"the JSON of the body holds {show(infinite)}, which is no number; leave it out")
    return read


def check_size(raw: bytes) -> str | None:
    """Raise BadRequestError for a body of more values or names than are parsed in a moment. Returns a number that is
    not finite, if the body holds one: JSON has none, and the parser takes them.

    Only what is outside of texts counts. A parser agrees on what that is as long as the body is JSON, and stops where
    it is not.
    """
    at, inside, values, names, cut, infinite = 0, 0, 0, 0, b"", None
    while at < len(raw):
        piece = raw[at : at + PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # an escaped character stays with its backslash
            piece = raw[at : at + PIECE + 1]
        at += len(piece)
        texts = piece.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b"".join(texts[inside::2])
        inside ^= (len(texts) - 1) % 2
        values += outside.count(b",")
        names += sum(map(outside.count, (b"[", b"{", b":")))
        if _LONG.search(outside):
            raise BadRequestError(f"the JSON of the body holds a number of more than {MAX_DIGITS} digits; write less")
        cut = cut[-_CARRIED:] + outside
        infinite = next((one.decode() for one in _POWER.findall(cut) if not math.isfinite(float(one))), infinite)
        if values > MAX_VALUES or names > MAX_NAMES:
            raise BadRequestError(
                f"the JSON of the body holds more than {MAX_VALUES} values, or more than {MAX_NAMES} objects, lists "
                "and names of fields; send less at once"
            )
    return infinite


def _is_json(content_type: str) -> bool:
    header = Header()
    header["content-type"] = content_type
    kind = header.get_content_subtype()
    return header.get_content_maintype() == "application" and (kind == "json" or kind.endswith("+json"))


def _refusal(found: ErrorDetails, kind: type[BaseModel]) -> BadRequestError:
    """One sentence about a fault that pydantic found: the field, its value, the remedy."""
    context: Mapping[str, Any] = found.get("ctx", {})
    if found["type"] == "json_invalid":
        remedy = "; half of a surrogate pair is no text, send whole characters" if "hex" in context["error"] else ""
        return BadRequestError(f"the body is not JSON: {context['error']}{remedy}", code="invalid_json")
    if found["type"] == "body":
        path = [*found["loc"], context["param"]] if context["param"] else found["loc"]
        return BadRequestError(found["msg"], ".".join(map(str, path)) or None, context["code"])
    if not found["loc"]:
        return BadRequestError(_NO_OBJECT)
    field = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden" and len(found["loc"]) == 1:
        return BadRequestError(unknown("field", field[:MAX_SHOWN], kind.model_fields), field, "unknown_parameter")
    return BadRequestError(f"field {show(field)} {_remedy(found, kind)}", field)


def _remedy(found: ErrorDetails, kind: type[BaseModel]) -> str:
    if found["type"] == "missing":
        return "is missing; give it"
    if found["type"] == "extra_forbidden":
        return "is unknown; leave it out"
    must = re.sub(r"^\w+ should", "must", found["msg"]).partition(" after validation")[0]
    return f"{must}, not {show(found['input'])}"
