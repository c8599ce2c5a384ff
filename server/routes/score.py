"""`POST /score`: how probable a given text is, computed in plain passes between the steps of generations."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from unmask.engine.scoring import Scored
from unmask.models.loading import Model
from unmask.server.backend import Backend
from unmask.server.caller import Caller
from unmask.server.parse.bodies import BodyRoute
from unmask.server.parse.score import Scoring, parse_score
from unmask.server.routes.common import ERRORS, BackendOf, check_model
from unmask.server.wire.responses import Usage
from unmask.server.wire.score import ScoreRequest, ScoreResponse

router = APIRouter(tags=["tokens"], responses=ERRORS, route_class=BodyRoute)


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, http: HTTPRequest, backend: BackendOf) -> Response:
    """Log-probabilities of a completion's masked tokens, and estimates from them.

    They are the softmax of the raw logits in float32, from one plain pass per mask.
    """
    caller = Caller(http, body.timeout, backend.settings, check_model(body.model, backend))
    scoring = await backend.parse(parse_score, body, caller)
    return await caller.wait(_answer(scoring, backend, caller))


async def _answer(scoring: Scoring, backend: Backend, caller: Caller) -> Response:
    scored = await backend.score(scoring.questions)
    head = {"id": f"score-{caller.id}", "model": caller.model}
    content = await asyncio.to_thread(_written, head, scoring, scored, backend.model)
    return Response(content, media_type="application/json")


def _written(head: dict[str, str], scoring: Scoring, scored: Sequence[Scored], model: Model) -> str:
    """The answer in JSON."""
    total = len(scoring.prompt) + len(scoring.completion)
    response = ScoreResponse(
        **head,
        **asdict(scoring.masks.score(scoring.completion, scored)),
        tokens=[model.tokenizer.token_text(token) for token in scoring.completion],
        usage=Usage(prompt_tokens=total, completion_tokens=0, total_tokens=total),
    )
    return response.model_dump_json(exclude_none=True)
