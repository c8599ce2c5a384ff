"""The figures of an answer that HTTP and Python show as `diffusion`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unmask.engine.pace import Speed
from unmask.engine.request import Request, Result


@dataclass(frozen=True)
class Figures:
    """How a text was generated. For several choices: sums of counts, and the longest of times.

    scheduler          name and options
    length             tokens of the generation region, the longest of several
    block_length       tokens per block
    cache              keys and values kept from pass to pass
    input_state        what the model was fed in place of masks: name and options
    steps              steps that were taken; a step is a forward pass as a request sees it
    forward_passes     the same number, by its other name
    tokens_per_step    generated tokens before the end of the text, per step
    tokens_per_second  the same per second of generating
    queue_seconds      from submission to the first pass
    generate_seconds   from the first pass to the last
    accepted_prediction_tokens, rejected_prediction_tokens   tokens of the prediction that the answers have at the same
                       positions, and the others; None without a prediction
    speed              what the load chose, for several choices the mean over all of their passes; None if the speed was
                       fixed
    forced_tokens      tokens that the form of the answer left no choice for, which cost no step; None without a form
    """

    scheduler: dict[str, Any]
    length: int
    block_length: int
    cache: str
    input_state: dict[str, Any]
    steps: int
    forward_passes: int
    tokens_per_step: float
    tokens_per_second: float
    queue_seconds: float
    generate_seconds: float
    forced_tokens: int | None = None
    accepted_prediction_tokens: int | None = None
    rejected_prediction_tokens: int | None = None
    speed: Speed | None = None


def figures(requests: Sequence[Request], results: Sequence[Result]) -> Figures:
    """The figures of some requests that differ in prompt, seed and length only; at least one."""
    tokens = sum(result.generated for result in results)
    passes = sum(result.forward_passes for result in results)
    structured = any(request.structure is not None for request in requests)
    drafted = any(request.draft for request in requests)
    seconds = max(result.generate_seconds for result in results)
    return Figures(
        scheduler=requests[0].scheduler.as_json(),
        length=max(request.max_tokens for request in requests),
        block_length=requests[0].block_length,
        cache=str(requests[0].cache),
        input_state=requests[0].input_state.as_json(),
        steps=passes,
        forward_passes=passes,
        tokens_per_step=round(tokens / passes, 3) if passes else 0.0,
        tokens_per_second=round(tokens / seconds, 3) if seconds else 0.0,
        queue_seconds=round(max(result.queue_seconds for result in results), 6),
        generate_seconds=round(seconds, 6),
        forced_tokens=sum(result.forced for result in results) if structured else None,
        accepted_prediction_tokens=sum(result.accepted for result in results) if drafted else None,
        rejected_prediction_tokens=sum(result.rejected for result in results) if drafted else None,
        speed=_speed(requests[0], results, passes),
    )


def _speed(request: Request, results: Sequence[Result], passes: int) -> Speed | None:
    if request.pace is None or not passes:
        return None
    return Speed.of(request.pace, sum((result.speed or 0.0) * result.forward_passes for result in results) / passes)
