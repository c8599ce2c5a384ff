"""The parts of an answer as one result."""

from collections.abc import Sequence
from dataclasses import replace

from unmask.engine.request import FinishReason, Result, Reveal
from unmask.server.tools import hermes
from unmask.server.tools.calling import Part
from unmask.server.tools.hermes import Call


def text_of(parts: Sequence[tuple[Part, Result]]) -> str:
    """What an answer says beside its calls."""
    return "".join(result.text for part, result in parts if part == "text")


def calls_of(parts: Sequence[tuple[Part, Result]]) -> list[Call]:
    """What an answer calls."""
    return [call for part, result in parts if part == "calls" for call in hermes.read(result.text)]


def merged(parts: Sequence[tuple[Part, Result]]) -> Result:
    """The tokens of the parts that a client gets, and the passes and seconds of all.

    An answer that came to a call for which there was no room has ended by its length.
    """
    results = [result for _, result in parts]
    if [part for part, _ in parts] == ["text"] and results[0].stop != hermes.OPENING:
        return results[0]
    first, last = results[0], results[-1]
    reason: FinishReason = "length" if last.stop == hermes.OPENING else last.finish_reason
    whole = replace(last, token_ids=(), positions=(), reveals=(), offsets=(), generated=0, forced=0)
    passes = 0
    for part, result in parts:
        if part != "decision":
            whole = _followed(whole, result, passes)
        passes += result.forward_passes
    return replace(
        whole,
        text=text_of(parts),
        finish_reason=reason,
        prompt_tokens=first.prompt_tokens,
        cached_tokens=first.cached_tokens,
        forward_passes=passes,
        queue_seconds=sum(result.queue_seconds for result in results),
        generate_seconds=sum(result.generate_seconds for result in results),
    )


def _followed(whole: Result, result: Result, passes: int) -> Result:
    """An answer and its next part, which began after some passes; positions go on."""
    shift = 1 + max(whole.positions, default=-1)
    kept = set(whole.positions)
    return replace(
        whole,
        token_ids=(*whole.token_ids, *result.token_ids),
        positions=(*whole.positions, *(position + shift for position in result.positions)),
        offsets=(*whole.offsets, *(offset + len(whole.text) for offset in result.offsets)),
        reveals=(
            *(reveal for reveal in whole.reveals if reveal.position in kept),
            *(_later(reveal, shift, passes) for reveal in result.reveals),
        ),
        generated=whole.generated + result.generated,
        forced=whole.forced + result.forced,
    )


def _later(reveal: Reveal, positions: int, steps: int) -> Reveal:
    return replace(reveal, position=reveal.position + positions, step=reveal.step + steps)
