"""`POST /score`: how probable a given text is, in plain passes beside the decoding."""

import asyncio
from collections.abc import Sequence
from itertools import islice

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response

from engine.scoring import (
    Scored,
    complementary_pairs,
    coupled,
    likelihood_bound,
    likelihood_masks,
    under_masks,
)
from models.loading import Model
from server.answers import ERRORS, BackendOf, check_model
from server.backend import Backend
from server.bodies import BodyRoute
from server.canvas import Region, check_length
from server.errors import BadRequestError
from server.parse import given_prompt
from server.streams import unless_disconnected
from server.tokens import check_scored, check_tokens, encoded
from server.wire.answers import Usage
from server.wire.score import (
    CoupledScore,
    LikelihoodScore,
    PatternScore,
    ScoreRequest,
    ScoreResponse,
)

router = APIRouter(tags=["tokens"], responses=ERRORS, route_class=BodyRoute)

Masks = list[list[int]]


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Log-probabilities of a completion's tokens where they are masked, and what follows from them.

    They are those of the softmax of the raw logits in float32, from one plain pass for each mask.
    """
    check_model(body.model, backend.model_name)
    prompt, completion = await asyncio.to_thread(_parse, body, backend.model)
    return await unless_disconnected(http, _answer(body, prompt, completion, backend, http.state.request_id))


async def _answer(
    body: ScoreRequest, prompt: Sequence[int], completion: Sequence[int], backend: Backend, request_id: str
) -> Response:
    model, length, seed = backend.model, len(completion), body.seed or 0
    nothing_else = body.coupled_pairs is None and body.likelihood_samples is None
    patterns = body.patterns or ([[*range(length)]] if nothing_else else [])
    pairs = complementary_pairs(length, body.coupled_pairs or 0, seed)
    everything = [[*range(length)]] if pairs else []
    samples = likelihood_masks(length, body.likelihood_samples or 0, seed)
    masks = [mask for mask in (*patterns, *pairs, *everything, *samples) if mask]
    check_scored(len(masks) * (len(prompt) + length), "completion")
    scored = await backend.score([under_masks(prompt, completion, mask, model.mask_id) for mask in masks])
    found = iter(scored)
    total = len(prompt) + length
    response = ScoreResponse(
        id=f"score-{request_id}",
        model=backend.model_name,
        token_ids=list(completion),
        tokens=[model.tokenizer.token_text(token) for token in completion],
        patterns=[_pattern(mask, one) for mask, one in zip(patterns, islice(found, len(patterns)), strict=True)]
        or None,
        coupled=_coupled(pairs, list(islice(found, len(masks) - len(patterns) - len(samples))), length),
        likelihood=_likelihood(samples, list(found), length),
        forward_passes=len(masks),
        usage=Usage(prompt_tokens=total, completion_tokens=0, total_tokens=total),
    )
    return JSONResponse(response.model_dump(exclude_none=True))


def _parse(body: ScoreRequest, model: Model) -> tuple[Sequence[int], Sequence[int]]:
    """(prompt, completion), checked against each other and against the patterns."""
    _, prompt = given_prompt(body, model)
    given = body.completion
    completion = encoded(given, "completion", model) if isinstance(given, str) else given
    check_tokens(completion, "completion", model)
    if not completion or model.mask_id in completion:
        wrong = "holds a mask" if completion else "holds no tokens"
        raise BadRequestError(f"field 'completion' {wrong}; give the tokens to score", "completion")
    check_length(Region(tuple(prompt), len(completion)), "completion", model)
    length = len(completion)
    for i, positions in enumerate(body.patterns or ()):
        # In this order: integers that a set would take long to tell apart are large.
        if len(positions) > length or max(positions) >= length or len(set(positions)) < len(positions):
            raise BadRequestError(
                f"field 'patterns.{i}' must hold different positions from 0 to {length - 1}", f"patterns.{i}"
            )
    return prompt, completion


def _pattern(masked: list[int], scored: Scored) -> PatternScore:
    return PatternScore(
        masked=masked, log_probabilities=list(scored.log_probabilities), sum=sum(scored.log_probabilities)
    )


def _coupled(pairs: Masks, scored: Sequence[Scored], length: int) -> CoupledScore | None:
    if not pairs:
        return None
    masks = [*(mask for mask in pairs if mask), [*range(length)]]
    estimate = coupled(length, masks, [one.log_probabilities for one in scored])
    return CoupledScore(masks=pairs, log_probabilities=estimate, sum=sum(estimate))


def _likelihood(masks: Masks, scored: Sequence[Scored], length: int) -> LikelihoodScore | None:
    if not masks:
        return None
    bound, error = likelihood_bound(length, [sum(one.log_probabilities) for one in scored], masks)
    return LikelihoodScore(samples=len(masks), log_likelihood=bound, standard_error=error)
