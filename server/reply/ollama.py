"""How `POST /api/chat` and `POST /api/generate` answer: whole, or as lines of JSON."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from unmask.engine.request import Result
from unmask.engine.service import EngineError
from unmask.server.errors import error_body
from unmask.server.generations import Generations
from unmask.server.reply.common import diffusion, usage
from unmask.server.reply.deltas import NO_ECHO, deltas
from unmask.server.reply.sse import to_json
from unmask.server.tools.hermes import Call
from unmask.server.tools.parts import calls_of
from unmask.server.wire.ollama import OllamaCall, OllamaFunction, OllamaMessage

JSON = dict[str, Any]
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class OllamaReply:
    """One HTTP request: what runs for it, whether its answer says in which order it was revealed, and whether that is
    a message."""

    model: str
    generations: Generations
    with_order: bool
    chats: bool

    async def whole(self) -> Response:
        """The whole answer."""
        (result,) = await self.generations.results()
        told = self._line(result.text, calls_of(self.generations.answer(0)))
        ended = await asyncio.to_thread(self._ended, result)
        return Response(to_json(told | ended), media_type="application/json")

    async def lines(self) -> AsyncIterator[str]:
        """The stream. What an error says is a text here, as Ollama's clients take it."""
        try:
            async for delta in deltas(self.generations, with_tokens=False, echoes=[NO_ECHO]):
                if delta.text or delta.calls:
                    yield to_json(self._line(delta.text, delta.calls) | {"done": False}) + "\n"
                if delta.result is not None:
                    ended = await asyncio.to_thread(self._ended, delta.result)
                    yield to_json(self._line("") | ended) + "\n"
        except EngineError as error:
            yield to_json({"error": error_body(error)["message"]}) + "\n"

    def _line(self, text: str, calls: Sequence[Call] = ()) -> JSON:
        head = {"model": self.model, "created_at": utc(datetime.now(UTC))}
        return head | ({"message": _message(text, calls)} if self.chats else {"response": text})

    def _ended(self, result: Result) -> JSON:
        """What the last line has beside the message."""
        tokens, generating = usage([result]), int(result.generate_seconds * NANOSECONDS)
        return {
            "done": True,
            "done_reason": "length" if result.finish_reason == "length" else "stop",
            "total_duration": int(result.queue_seconds * NANOSECONDS) + generating,
            "load_duration": 0,
            "prompt_eval_count": tokens.prompt_tokens,
            "prompt_eval_duration": 0,
            "eval_count": tokens.completion_tokens,
            "eval_duration": generating,
            "diffusion": diffusion(self.generations, [result], self.with_order),
        }


def _message(text: str, calls: Sequence[Call]) -> JSON:
    functions = [OllamaFunction(name=call.name, arguments=json.loads(call.arguments)) for call in calls]
    called = [OllamaCall(function=function) for function in functions] or None
    return OllamaMessage(content=text, tool_calls=called).model_dump(exclude_none=True)


def utc(time: datetime) -> str:
    """A time as Ollama writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
