"""Endpoints of other servers that this one does not have: what their clients can do instead.

The status is 400. Routers of LLM traffic, such as LiteLLM's proxy, take 404, 501 and other 5xx for a fault of the
server and send nobody there for a while; and clients repeat what was answered with 5xx.
"""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest

from unmask.server.errors import BadRequestError

router = APIRouter(include_in_schema=False)

CHAT = "use /v1/chat/completions"
INSTEAD = {
    "/v1/messages": f"{CHAT}, or a client of OpenAI's API",
    "/v1/embeddings": "this model writes text and embeds none; ask a server with an embedding model",
}


@router.post("/v1/messages")
@router.post("/v1/embeddings")
async def elsewhere(http: HTTPRequest) -> None:
    """Refuse, with a sentence that says what to do."""
    path = http.url.path
    raise BadRequestError(f"this server has no {path}; {INSTEAD[path]}", code="unsupported_endpoint")
