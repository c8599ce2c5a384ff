"""What the responses of the generation endpoints have in common."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from unmask.engine.ar_ness import global_ar_ness, local_ar_ness, reveal_order
from unmask.engine.figures import figures
from unmask.engine.request import Result
from unmask.server.generations import Generations
from unmask.server.wire.responses import ArNess, CompletionDetails, Diffusion, PromptDetails, Usage


def usage(results: Sequence[Result], n: int = 1) -> Usage:
    """Tokens in and out, where each prompt has n choices; a prompt counts once."""
    prompt = sum(result.prompt_tokens for result in results[::n])
    completion = sum(result.generated for result in results)
    accepted, rejected = (sum(getattr(result, name) for result in results) for name in ("accepted", "rejected"))
    details = CompletionDetails(accepted_prediction_tokens=accepted, rejected_prediction_tokens=rejected)
    cached = [result.cached_tokens for result in results[::n] if result.cached_tokens is not None]
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptDetails(cached_tokens=sum(cached)) if cached else None,
        completion_tokens_details=details if accepted or rejected else None,
    )


def token_steps(result: Result) -> dict[str, Any]:
    """The fields of `TokenSteps`."""
    reveals = {reveal.position: reveal for reveal in result.reveals}
    tokens = [reveals.get(position) for position in result.positions]
    return {
        "token_steps": [token and token.step for token in tokens],
        "token_confidences": [token and round(token.probability, 6) for token in tokens],
    }


def diffusion(generations: Generations, results: Sequence[Result], with_order: bool) -> dict[str, Any]:
    """The fields of `Diffusion`, the figures of the results of its choices."""
    requests, calling = generations.requests, generations.calling
    order = _ar_ness(results) if with_order else None
    loose = list(calling.unheld) if calling is not None and calling.unheld else None
    response = Diffusion(**asdict(figures(requests, results)), loose_tools=loose, ar_ness=order)
    return response.model_dump(exclude_none=True, by_alias=True)


def _ar_ness(results: Sequence[Result]) -> ArNess:
    orders = [reveal_order(result) for result in results]
    local, overall = (fmean(map(measure, orders)) for measure in (local_ar_ness, global_ar_ness))
    return ArNess.model_validate({"local": round(local, 6), "global": round(overall, 6)})
