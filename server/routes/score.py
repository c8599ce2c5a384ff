"""`POST /score`: how probable a given text is, in plain passes beside the decoding."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.engine.score import Masks, check_patterns, draw_masks, passes_asked
from unmask.engine.scoring import Scored
from unmask.models.loading import Model
from unmask.server.backend import Backend
from unmask.server.caller import Caller
from unmask.server.errors import BadRequestError
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.limits import check_scored, check_tokens, encoded
from unmask.server.parse.region import Region, check_length
from unmask.server.parse.requests import given_prompt
from unmask.server.routes.common import ERRORS, BackendOf, check_model
from unmask.server.wire.responses import Usage
from unmask.server.wire.score import ScoreRequest, ScoreResponse

router = APIRouter(tags=["tokens"], responses=ERRORS, route_class=BodyRoute)


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
    masks = await asyncio.to_thread(_draw, body, len(prompt), len(completion))
    questions = await asyncio.to_thread(masks.questions, prompt, completion, backend.model.mask_id)
    scored = await backend.score(questions)
    head = {"id": f"score-{request_id}", "model": backend.model_name}
    content = await asyncio.to_thread(_written, head, masks, scored, len(prompt), completion, backend.model)
    return Response(content, media_type="application/json")


def _draw(body: ScoreRequest, before: int, length: int) -> Masks:
    """The masks for a completion of `length` tokens after `before` others, unless they are too many."""
    asked = (body.patterns, body.coupled_pairs or 0, body.likelihood_samples or 0)
    check_scored(passes_asked(*asked) * (before + length), "completion")
    return draw_masks(length, *asked, body.seed or 0)


def _written(
    head: dict[str, str],
    masks: Masks,
    scored: Sequence[Scored],
    before: int,
    completion: Sequence[int],
    model: Model,
) -> str:
    """The answer in JSON."""
    total = before + len(completion)
    response = ScoreResponse(
        **head,
        **asdict(masks.score(completion, scored)),
        tokens=[model.tokenizer.token_text(token) for token in completion],
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
    check_patterns(body.patterns or (), len(completion))
    return prompt, completion
