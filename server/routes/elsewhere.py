"""Endpoints of other servers that this one does not have: what their clients can do instead.

The status is 400. Routers of LLM traffic, such as LiteLLM's proxy, take 404, 501 and other 5xx for a fault of the
server and send nobody there for a while; and clients repeat what was answered with 5xx.
"""

from fastapi import APIRouter
from starlette.requests import Request

from unmask.server.errors import BadRequestError

_EMBEDS = "its model writes text and embeds none; ask a server with an embedding model"
_ONE = "it serves the one model that it was started with; start another server: unmask serve MODEL"
ELSEWHERE = {
    **dict.fromkeys(("/v1/embeddings", "/api/embed", "/api/embeddings"), _EMBEDS),
    **dict.fromkeys(("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/{name}"), _ONE),
}

router = APIRouter(include_in_schema=False)


async def refuse(request: Request) -> None:
    """Refuse, with a sentence that says what to do."""
    path = request.scope["route"].path
    raise BadRequestError(f"this server has no {path}; {ELSEWHERE[path]}", code="unsupported_endpoint")


for path in ELSEWHERE:
    router.add_api_route(path, refuse, methods=["DELETE", "HEAD", "POST"])
