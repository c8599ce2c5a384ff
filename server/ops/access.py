"""Who may ask: API keys, and a key is wanted by everything but what an orchestrator and Prometheus look at, and
the playground's own files, which hold nothing of the server's and ask for the key themselves."""

import hashlib
import hmac
from collections.abc import Collection, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unmask.server.errors import UnauthorizedError, error_response

PROBES = frozenset({"/health", "/load", "/metrics", "/ping", "/ready"})


class ApiKeys:
    """Answers 401 to requests that bring none of the keys as `Authorization: Bearer KEY`, their bodies unread. Of the
    others, `request.state.key` says which key it is.

    Keys are compared by their digests, all of them and each in constant time: how long it takes tells nothing.
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
        what = "the API key is none of this server's" if "authorization" in headers else "this server wants an API key"
        error = UnauthorizedError(f"{what}; send one of its keys as the header 'Authorization: Bearer KEY'")
        return await error_response(error)(scope, receive, send)

    def _name(self, headers: Headers) -> str | None:
        """A name for the key that is brought, which is not the key; None if it is none of these."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip().encode("latin-1"))  # a header is bytes, which Starlette reads so
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return str(found.index(True)) if scheme.lower() == "bearer" and any(found) else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
