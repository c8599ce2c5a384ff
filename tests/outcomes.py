"""What of a result must be equal where two ways of decoding are."""

from collections.abc import Sequence
from typing import Any

from unmask.engine import Engine, Request, Result
from unmask.models.loading import Model

Outcome = tuple[Any, ...]


def in_turn(models: Sequence[str], schedulers: Sequence[str]) -> list[tuple[str, str]]:
    """(model, scheduler): every model and every scheduler, but not each with each."""
    most = max(len(models), len(schedulers))
    return [(models[i % len(models)], schedulers[i % len(schedulers)]) for i in range(most)]


def outcome(result: Result) -> Outcome:
    return result.token_ids, result.text, result.finish_reason, result.forward_passes


def outcomes(model: Model, requests: Sequence[Request], **options: Any) -> list[Outcome]:
    """Those of requests that share an engine with these options."""
    found = Engine(model, **options).results(requests)
    return [outcome(found[request.id]) for request in requests]
