"""API keys. Every path needs one, except those for orchestrators and Prometheus, and the files of the playground, which
hold no data of the server and ask for the key themselves."""

import hashlib
import hmac
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unmask.server.errors import UnauthorizedError, error_response

ANTHROPIC = "x-api-key"
PROBES = frozenset({"/health", "/load", "/metrics", "/ping", "/ready"})


class ApiKeys:
    """Answers 401 to requests without one of the keys, and does not read their bodies.

    A key comes as `Authorization: Bearer KEY`, or as Anthropic's clients send it, `X-Api-Key: KEY`.

    `request.state.key` names the key of the others. Keys are compared by their digests, all of them and each in
    constant time, so the time of a comparison reveals nothing.

    open_paths  paths that need no key
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Collection[str]):
        self._app = app
        self._open_paths = open_paths
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if (name := self._name(headers)) is not None:
            scope.setdefault("state", {})["key"] = name
            return await self._app(scope, receive, send)
        given = {"authorization", ANTHROPIC} & set(headers.keys())
        what = "the API key is unknown" if given else "this server needs an API key"
        error = UnauthorizedError(f"{what}; send one of its keys as the header 'Authorization: Bearer KEY'")
        return await error_response(error, scope["path"])(scope, receive, send)

    def _name(self, headers: Headers) -> str | None:
        """A name for the key of a request, which is not the key itself; None if the key is unknown."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key if scheme.lower() == "bearer" else headers.get(ANTHROPIC, "")
        given = _digest(key.strip().encode("latin-1"))  # as Starlette decodes headers
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return str(found.index(True)) if any(found) else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
