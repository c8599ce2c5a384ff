"""Answers as they settle: what the OpenAI endpoints send, delta by delta or whole."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from unmask.engine.request import Result, Reveal, Step
from unmask.models.tokenizer import Tokenizer
from unmask.server.generations import Generations

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


def whole(choice: int, result: Result, echo: Echo = NO_ECHO) -> Delta:
    """A whole answer as one delta."""
    reveals = {reveal.position: reveal for reveal in result.reveals}
    places = zip(result.positions, result.offsets, strict=True)
    tokens = tuple(_token(reveals[position], offset, echo) for position, offset in places)
    return Delta(choice, result.text, tokens, echo=echo, end=_end(result, echo), result=result)


async def deltas(generations: Generations, with_tokens: bool, echoes: Sequence[Echo]) -> AsyncIterator[Delta]:
    """Deltas until every answer has ended. Only the first and the last one of an answer may be empty.

    with_tokens  whether deltas hold their tokens
    echoes       one per answer
    """
    answers = [_Progress(choice, echo) for choice, echo in enumerate(echoes)]
    async for choice, step in generations.steps():
        if step.index == 0:
            yield Delta(choice, "", opens=True)
        delta = answers[choice].take(step, with_tokens)
        if delta.text or delta.tokens or delta.result is not None:
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
    """How much of one answer was sent."""

    choice: int
    echo: Echo
    first: bool = True
    characters: int = 0
    tokens: int = 0
    reveals: dict[int, Reveal] = field(default_factory=dict)

    def take(self, step: Step, with_tokens: bool) -> Delta:
        text = step.text[self.characters :]
        tokens = self._tokens(step) if with_tokens else ()
        end = _end(step.result, self.echo) if with_tokens else ()
        echo = self.echo if self.first else NO_ECHO
        delta = Delta(self.choice, text, tokens, self.first, echo, end, step.result)
        self.characters = len(step.text)
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
