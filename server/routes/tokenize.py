"""`/tokenize`, `/detokenize` and `/tokenizer_info`: text and tokens, without generating."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.models.loading import Model
from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.limits import check_count, check_tokens
from unmask.server.parse.prompts import tokens_of
from unmask.server.routes.common import ERRORS, BackendOf, check_model
from unmask.server.wire.tokenize import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)

router = APIRouter(tags=["tokens"], responses=ERRORS, route_class=BodyRoute)


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """The tokens of a text, or of a conversation as the chat template writes it."""
    name = check_model(body.model, backend)
    # Written as JSON on the thread as well: a text that is too long for a prompt may have many tokens.
    written = backend.workers.run(_tokenized, body, backend.model)
    content = await Caller(http, None, backend.settings, name).wait(written)
    return Response(content, media_type="application/json")


def _tokenized(body: TokenizeRequest, model: Model) -> str:
    tokens = tokens_of(body, model)
    strings = [model.tokenizer.token_string(token) for token in tokens] if body.return_token_strs else None
    count, longest = len(tokens), model.max_positions
    response = TokenizeResponse(tokens=tokens, count=count, max_model_len=longest, token_strs=strings)
    return response.model_dump_json(exclude_none=True)


@router.post("/detokenize")
async def detokenize(body: DetokenizeRequest, backend: BackendOf) -> DetokenizeResponse:
    """The text of some tokens."""
    model = backend.model
    check_model(body.model, backend)
    check_count(len(body.tokens), "tokens", model)
    check_tokens(body.tokens, "tokens", model)
    return DetokenizeResponse(prompt=await backend.workers.run(model.tokenizer.decode_all, body.tokens))


@router.get("/tokenizer_info")
async def tokenizer_info(backend: BackendOf) -> TokenizerInfo:
    """The tokenizer: its class, its special tokens and its chat template."""
    model = backend.model
    named = model.tokenizer.special_tokens
    return TokenizerInfo(
        tokenizer_class=model.tokenizer.kind,
        vocab_size=model.vocab_size,
        model_max_length=model.max_positions,
        bos_token=named.get("bos_token"),
        eos_token=named.get("eos_token"),
        pad_token=named.get("pad_token"),
        mask_token=model.tokenizer.token_text(model.mask_id),
        mask_token_id=model.mask_id,
        stop_token_ids=sorted(model.stop_ids),
        chat_template=model.tokenizer.chat_template,
    )
