"""Answers as they settle: what the OpenAI endpoints send on, piece by piece or whole."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from unmask.engine.request import Result, Reveal, Step
from unmask.models.tokenizer import Tokenizer
from unmask.server.streams import Generations

MASK = "\N{LIGHT SHADE}"  # in a snapshot, for what is not revealed yet
LOWEST = -9999.0  # log-probability of what has none in float32; JSON has no infinity


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
    """A prompt that is told with its answer."""

    text: str = ""
    tokens: tuple[Token, ...] = ()


NO_ECHO = Echo()


@dataclass(frozen=True)
class Piece:
    """What has settled of one answer since its last piece; or, of snapshots, all that there is.

    choice  which answer
    tokens  that make up the text, where they were asked for
    first   whether there was none before; then with the echo of the prompt, if it is told
    end     with the last piece, where tokens were asked for: the end of text that ended the answer, no part of it
    result  with the last piece only
    """

    choice: int
    text: str
    tokens: tuple[Token, ...] = ()
    first: bool = True
    echo: Echo = NO_ECHO
    end: tuple[Token, ...] = ()
    result: Result | None = None


def whole(choice: int, result: Result, echo: Echo = NO_ECHO) -> Piece:
    """An answer in one piece."""
    reveals = {reveal.position: reveal for reveal in result.reveals}
    places = zip(result.positions, result.offsets, strict=True)
    tokens = tuple(_token(reveals[position], offset, echo) for position, offset in places)
    return Piece(choice, result.text, tokens, echo=echo, end=_end(result, echo), result=result)


async def pieces(generations: Generations, with_tokens: bool, echoes: Sequence[Echo]) -> AsyncIterator[Piece]:
    """Until every answer has ended. No piece is empty but a last one.

    with_tokens  whether pieces tell their tokens
    """
    answers = [_Answer(choice, echo) for choice, echo in enumerate(echoes)]
    async for choice, step in generations.steps():
        piece = answers[choice].take(step, with_tokens)
        if piece.text or piece.tokens or piece.result is not None:
            yield piece


async def snapshots(generations: Generations, tokenizer: Tokenizer) -> AsyncIterator[Piece]:
    """After every step all of an answer, masks included; the last piece is the answer itself."""
    canvases: list[dict[int, Reveal]] = [{} for _ in generations.requests]
    async for choice, step in generations.steps():
        _apply(step, canvases[choice])
        length = generations.requests[choice].max_tokens
        text = step.result.text if step.result else _snapshot(canvases[choice], length, tokenizer)
        yield Piece(choice, text, result=step.result)


@dataclass
class _Answer:
    """How much of one answer has been sent."""

    choice: int
    echo: Echo
    first: bool = True
    characters: int = 0
    tokens: int = 0
    reveals: dict[int, Reveal] = field(default_factory=dict)

    def take(self, step: Step, with_tokens: bool) -> Piece:
        sent, self.characters = self.characters, len(step.text)
        text = step.text[sent:]
        tokens = self._tokens(step) if with_tokens else ()
        first, self.first = self.first, self.first and not text and not tokens
        echo = self.echo if first else NO_ECHO
        end = _end(step.result, self.echo) if with_tokens else ()
        return Piece(self.choice, text, tokens, first, echo, end, step.result)

    def _tokens(self, step: Step) -> tuple[Token, ...]:
        """The tokens that the settled text has grown by."""
        _apply(step, self.reveals)
        first, self.tokens = self.tokens, self.tokens + len(step.offsets)
        places = enumerate(step.offsets, start=first)
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
    """offset  in the text of the answer alone, which follows the echo"""
    top = tuple((token, log(probability)) for token, probability in reveal.top)
    return Token(reveal.token_id, log(reveal.probability), len(echo.text) + offset, top)


def _end(result: Result | None, echo: Echo) -> tuple[Token, ...]:
    return () if result is None or result.end is None else (_token(result.end, len(result.text), echo),)


def log(probability: float) -> float:
    return max(math.log(probability), LOWEST) if probability > 0 else LOWEST
