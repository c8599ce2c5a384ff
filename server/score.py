"""`POST /score`: how probable a given text is, in plain passes beside the decoding."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.engine.scoring import (
    Question,
    Scored,
    complementary_pairs,
    coupled,
    likelihood_bound,
    likelihood_masks,
    under_masks,
)
from unmask.models.loading import Model
from unmask.server.answers import ERRORS, BackendOf, check_model
from unmask.server.backend import Backend
from unmask.server.bodies import BodyRoute
from unmask.server.caller import Caller
from unmask.server.canvas import Region, check_length
from unmask.server.errors import BadRequestError
from unmask.server.parse import given_prompt
from unmask.server.tokens import check_scored, check_tokens, encoded
from unmask.server.wire.answers import Usage
from unmask.server.wire.score import (
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
    caller = Caller(http, body.timeout, backend.settings)
    prompt, completion = await caller.wait(backend.workers.run(_parse, body, backend.model))
    return await caller.wait(_answer(body, prompt, completion, backend, caller.id))


async def _answer(
    body: ScoreRequest, prompt: Sequence[int], completion: Sequence[int], backend: Backend, request_id: str
) -> Response:
    drawn = await asyncio.to_thread(_draw, body, len(prompt), len(completion))
    questions = await asyncio.to_thread(_questions, drawn, prompt, completion, backend.model)
    scored = await backend.score(questions)
    head = {"id": f"score-{request_id}", "model": backend.model_name}
    content = await asyncio.to_thread(_written, head, drawn, scored, len(prompt), completion, backend.model)
    return Response(content, media_type="application/json")


@dataclass(frozen=True)
class _Drawn:
    """The masks that a body asks for; those of a pair may be empty, and are then not looked at."""

    patterns: Masks
    pairs: Masks
    samples: Masks

    @property
    def coupled(self) -> Masks:
        """What is looked at for the pairs, the full mask last."""
        length = len(self.pairs[0]) + len(self.pairs[1]) if self.pairs else 0
        return [*(mask for mask in self.pairs if mask), [*range(length)]] if self.pairs else []


def _draw(body: ScoreRequest, before: int, length: int) -> _Drawn:
    """The masks for a completion of `length` tokens after `before` others, unless they are too many."""
    pairs, samples, seed = body.coupled_pairs or 0, body.likelihood_samples or 0, body.seed or 0
    patterns = body.patterns or ([[*range(length)]] if not pairs and not samples else [])
    passes = len(patterns) + (2 * pairs + 1 if pairs else 0) + samples
    check_scored(passes * (before + length), "completion")
    return _Drawn(patterns, complementary_pairs(length, pairs, seed), likelihood_masks(length, samples, seed))


def _questions(drawn: _Drawn, prompt: Sequence[int], completion: Sequence[int], model: Model) -> list[Question]:
    masks = (*drawn.patterns, *drawn.coupled, *drawn.samples)
    return [under_masks(prompt, completion, mask, model.mask_id) for mask in masks]


def _written(
    head: dict[str, str],
    drawn: _Drawn,
    scored: Sequence[Scored],
    before: int,
    completion: Sequence[int],
    model: Model,
) -> str:
    """The answer in JSON."""
    found, length = iter(scored), len(completion)
    total = before + length
    response = ScoreResponse(
        **head,
        token_ids=list(completion),
        tokens=[model.tokenizer.token_text(token) for token in completion],
        patterns=[
            _pattern(mask, one) for mask, one in zip(drawn.patterns, islice(found, len(drawn.patterns)), strict=True)
        ]
        or None,
        coupled=_coupled(drawn, list(islice(found, len(drawn.coupled))), length),
        likelihood=_likelihood(drawn.samples, list(found), length),
        forward_passes=len(scored),
        usage=Usage(prompt_tokens=total, completion_tokens=0, total_tokens=total),
    )
    return response.model_dump_json(exclude_none=True)


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


def _coupled(drawn: _Drawn, scored: Sequence[Scored], length: int) -> CoupledScore | None:
    if not drawn.pairs:
        return None
    estimate = coupled(length, drawn.coupled, [one.log_probabilities for one in scored])
    return CoupledScore(masks=drawn.pairs, log_probabilities=estimate, sum=sum(estimate))


def _likelihood(masks: Masks, scored: Sequence[Scored], length: int) -> LikelihoodScore | None:
    if not masks:
        return None
    bound, error = likelihood_bound(length, [sum(one.log_probabilities) for one in scored], masks)
    return LikelihoodScore(samples=len(masks), log_likelihood=bound, standard_error=error)
