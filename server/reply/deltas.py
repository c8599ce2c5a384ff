"""Answers as they settle: what the OpenAI endpoints send, delta by delta or whole."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from unmask.engine.request import Result, Reveal, Step
from unmask.models.tokenizer import Tokenizer
from unmask.server.generations import Generations
from unmask.server.tools import hermes
from unmask.server.tools.calling import Part
from unmask.server.tools.hermes import Call
from unmask.server.tools.parts import merged

MASK = "\N{LIGHT SHADE}"  # stands for a masked position in a snapshot
LOWEST = -9999.0  # instead of minus infinity, which JSON lacks


@dataclass(frozen=True)
class Token:
    """A token of an answer or of an echoed prompt, with its log-probability and the most probable ones.

    offset  characters of the text before it, that of an echoed prompt included
    """

    id: int
    log_probability: float | None
    offset: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Echo:
    """A prompt that stands before its answer."""

    text: str = ""
    tokens: tuple[Token, ...] = ()


NO_ECHO = Echo()


@dataclass(frozen=True)
class Delta:
    """What has settled of one answer since its last delta; of snapshots, the whole text so far.

    choice  which answer
    opens   whether this stands for the first step of an answer; then it holds nothing else
    calls   what the answer has called since its last delta, and `called` before it
    tokens  of the text, where they were asked for
    first   whether no delta with text came before
    echo    with the first delta: the prompt, if the answer begins with it
    end     with the last delta, where tokens were asked for: the end of text that ended the answer, no part of it
    result  with the last delta only
    """

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()
    first: bool = True
    echo: Echo = NO_ECHO
    end: tuple[Token, ...] = ()
    result: Result | None = None
    opens: bool = False
    calls: tuple[Call, ...] = ()
    called: int = 0

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended; None before its end."""
        if self.result is None:
            return None
        return "tool_calls" if self.called or self.calls else self.result.finish_reason


def whole(choice: int, result: Result, echo: Echo = NO_ECHO, calls: Sequence[Call] = ()) -> Delta:
    """A whole answer as one delta."""
    reveals = {reveal.position: reveal for reveal in result.reveals}
    places = zip(result.positions, result.offsets, strict=True)
    tokens = tuple(_token(reveals[position], offset, echo) for position, offset in places)
    return Delta(choice, result.text, tokens, echo=echo, end=_end(result, echo), result=result, calls=tuple(calls))


async def deltas(generations: Generations, with_tokens: bool, echoes: Sequence[Echo]) -> AsyncIterator[Delta]:
    """Deltas until every answer has ended. Only the first and the last one of an answer may be empty.

    with_tokens  whether deltas hold their tokens
    echoes       one per answer
    """
    parts: dict[int, _Progress] = {}
    async for index, step in generations.steps():
        choice = generations.choices[index]
        if step.index == 0 and index == choice:
            yield Delta(choice, "", opens=True)
        if index not in parts:
            parts[index] = _Progress(choice, echoes[choice], generations.part(index), first=index == choice)
        delta = parts[index].take(step, with_tokens)
        if step.result is not None and (answer := generations.answer(choice)):
            delta = replace(delta, result=merged(answer))
        if delta.text or delta.tokens or delta.calls or delta.result is not None:
            yield delta


async def snapshots(generations: Generations, tokenizer: Tokenizer) -> AsyncIterator[Delta]:
    """After every step the whole text of an answer, masks included; the last one is the answer itself."""
    canvases: list[dict[int, Reveal]] = [{} for _ in generations.requests]
    async for choice, step in generations.steps():
        if step.index == 0:
            yield Delta(choice, "", opens=True)
        _apply(step, canvases[choice])
        length = generations.requests[choice].max_tokens
        text = step.result.text if step.result else _snapshot(canvases[choice], length, tokenizer)
        yield Delta(choice, text, result=step.result)


@dataclass
class _Progress:
    """How much of one part of an answer was sent."""

    choice: int
    echo: Echo
    part: Part
    first: bool
    called: int = 0
    characters: int = 0
    tokens: int = 0
    reveals: dict[int, Reveal] = field(default_factory=dict)

    def take(self, step: Step, with_tokens: bool) -> Delta:
        if self.part == "decision":
            return Delta(self.choice, "")
        text = step.text[self.characters :] if self.part == "text" else ""
        calls = tuple(hermes.read(step.text)[self.called :]) if self.part == "calls" else ()
        tokens = self._tokens(step) if with_tokens else ()
        end = _end(step.result, self.echo) if with_tokens else ()
        echo = self.echo if self.first else NO_ECHO
        delta = Delta(self.choice, text, tokens, self.first, echo, end, calls=calls, called=self.called)
        self.characters = len(step.text)
        self.called += len(calls)
        if text or tokens:
            self.first = False
        return delta

    def _tokens(self, step: Step) -> tuple[Token, ...]:
        """The tokens that have settled with this step."""
        _apply(step, self.reveals)
        places = enumerate(step.offsets, start=self.tokens)
        self.tokens += len(step.offsets)
        return tuple(_token(self.reveals[position], offset, self.echo) for position, offset in places)


def _apply(step: Step, canvas: dict[int, Reveal]) -> None:
    for position in step.remasked:
        canvas.pop(position, None)
    canvas.update((reveal.position, reveal) for reveal in (*step.revealed, *step.written))


def _snapshot(canvas: Mapping[int, Reveal], length: int, tokenizer: Tokenizer) -> str:
    runs = groupby(range(length), key=lambda position: position in canvas)
    return "".join(
        tokenizer.decode([canvas[position].token_id for position in run]) if revealed else MASK * len(list(run))
        for revealed, run in runs
    )


def _token(reveal: Reveal, offset: int, echo: Echo) -> Token:
    """The token of a reveal. `offset` counts from the start of the answer, after the echo."""
    top = tuple((token, log(probability)) for token, probability in reveal.top)
    return Token(reveal.token_id, log(reveal.probability), len(echo.text) + offset, top)


def _end(result: Result | None, echo: Echo) -> tuple[Token, ...]:
    return () if result is None or result.end is None else (_token(result.end, len(result.text), echo),)


def log(probability: float) -> float:
    return max(math.log(probability), LOWEST) if probability > 0 else LOWEST
