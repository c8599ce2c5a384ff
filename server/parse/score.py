"""From a body of `POST /score` to the canvases that the model looks at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask.engine.score import Masks, check_patterns, draw_masks, passes_asked
from unmask.engine.scoring import Question
from unmask.server.errors import BadRequestError
from unmask.server.parse.context import Context
from unmask.server.parse.limits import check_scored, check_tokens
from unmask.server.parse.prompts import encoded, given_prompt
from unmask.server.parse.region import Region, check_length
from unmask.server.wire.score import ScoreRequest


@dataclass(frozen=True)
class Scoring:
    """A completion to score after a prompt, the masks for it, and one question per pass."""

    prompt: Sequence[int]
    completion: Sequence[int]
    masks: Masks
    questions: list[Question]


def parse_score(body: ScoreRequest, context: Context) -> Scoring:
    """What to look at for a body; raises what `server.errors` maps to 400."""
    model = context.model
    _, prompt = given_prompt(body, model)
    given = body.completion
    completion = encoded(given, "completion", model) if isinstance(given, str) else given
    check_tokens(completion, "completion", model)
    if not completion or model.mask_id in completion:
        wrong = "holds a mask" if completion else "holds no tokens"
        raise BadRequestError(f"field 'completion' {wrong}; give the tokens to score", "completion")
    check_length(Region(tuple(prompt), len(completion)), "completion", model)
    check_patterns(body.patterns or (), len(completion))
    asked = (body.patterns, body.coupled_pairs or 0, body.likelihood_samples or 0)
    check_scored(passes_asked(*asked) * (len(prompt) + len(completion)), "completion")
    masks = draw_masks(len(completion), *asked, body.seed or 0)
    questions = masks.questions(prompt, completion, model.mask_id)
    return Scoring(prompt, completion, masks, [replace(question, adapter=context.adapter) for question in questions])
