"""Endpoints of other servers that this one does not have: what their clients can do instead.

The status is 400. Routers of LLM traffic, such as LiteLLM's proxy, take 404, 501 and other 5xx for a fault of the
server and send nobody there for a while; and clients repeat what was answered with 5xx.
"""

from fastapi import APIRouter

from unmask.server.errors import BadRequestError

router = APIRouter(include_in_schema=False)


@router.post("/v1/embeddings")
async def embeddings() -> None:
    """Refuse, with a sentence that says what to do."""
    raise BadRequestError(
        "this server has no /v1/embeddings; its model writes text and embeds none; "
        "ask a server with an embedding model",
        code="unsupported_endpoint",
    )
