"""Answers as they settle: what the OpenAI endpoints send on, piece by piece or whole."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from engine.request import Result
from server.streams import Generations


@dataclass(frozen=True)
class Piece:
    """What has settled of one answer since its last piece.

    choice  which answer
    result  with its last piece only
    """

    choice: int
    text: str
    result: Result | None = None


def whole(choice: int, result: Result) -> Piece:
    """An answer in one piece."""
    return Piece(choice, result.text, result)


async def pieces(generations: Generations) -> AsyncIterator[Piece]:
    """Until every answer has ended. No piece is empty but a last one."""
    sent = [0] * len(generations.requests)
    async for choice, step in generations.steps():
        text, sent[choice] = step.text[sent[choice] :], len(step.text)
        if text or step.result is not None:
            yield Piece(choice, text, step.result)
