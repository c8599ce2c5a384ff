"""How `POST /v1/messages` answers: whole, or as Anthropic's sequence of events."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, Response

from unmask.engine.request import Result
from unmask.engine.service import EngineError
from unmask.server.errors import error_body
from unmask.server.generations import Generations
from unmask.server.reply.common import diffusion, usage
from unmask.server.reply.deltas import NO_ECHO, Delta, deltas, whole
from unmask.server.reply.sse import event
from unmask.server.tools.hermes import Call
from unmask.server.tools.parts import calls_of
from unmask.server.wire.anthropic import MessagesRequest, MessagesUsage
from unmask.server.wire.blocks import AnswerBlock, AnswerCall, AnswerText

JSON = dict[str, Any]


@dataclass
class Answer:
    """The blocks of one answer, as they grow."""

    blocks: list[AnswerBlock] = field(default_factory=list)
    text: str = ""

    def add_text(self, text: str) -> Iterator[JSON]:
        if not self.blocks:
            self.blocks.append(AnswerText(text=""))
            yield self._begins(AnswerText(text=""))
        self.text += text
        self.blocks[0] = AnswerText(text=self.text)
        if text:
            yield self._grows({"type": "text_delta", "text": text})

    def end_text(self) -> Iterator[JSON]:
        if self.blocks:
            yield self._ends()

    def add_call(self, call: Call) -> Iterator[JSON]:
        name = f"toolu_{uuid.uuid4().hex[:24]}"
        self.blocks.append(AnswerCall(id=name, name=call.name, input=json.loads(call.arguments)))
        yield self._begins(AnswerCall(id=name, name=call.name, input={}))
        yield self._grows({"type": "input_json_delta", "partial_json": call.arguments})
        yield self._ends()

    def _begins(self, block: AnswerBlock) -> JSON:
        return {"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": block.model_dump()}

    def _grows(self, delta: JSON) -> JSON:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    def _ends(self) -> JSON:
        return {"type": "content_block_stop", "index": len(self.blocks) - 1}


@dataclass(frozen=True)
class MessagesReply:
    """One HTTP request: what was asked, what runs for it, and the fields that its answer begins with."""

    body: MessagesRequest
    generations: Generations
    head: JSON

    async def whole(self) -> Response:
        """The whole answer."""
        (result,) = await self.generations.results()
        delta, answer = whole(0, result, calls=calls_of(self.generations.answer(0))), Answer()
        for _ in _events_of(delta, answer):
            pass  # the blocks are what counts
        return JSONResponse(await asyncio.to_thread(self._message, delta, result, answer))

    async def events(self) -> AsyncIterator[str]:
        """The stream. It begins with the first step, as that of the chat endpoint."""
        try:
            async for data in self._events():
                yield event(data, data["type"])
        except EngineError as error:
            yield event({"type": "error", "error": error_body(error)}, "error")

    async def _events(self) -> AsyncIterator[JSON]:
        answer, request = Answer(), self.generations.requests[0]
        async for delta in deltas(self.generations, with_tokens=False, echoes=[NO_ECHO]):
            if delta.opens:
                given = MessagesUsage(input_tokens=len(request.prompt), output_tokens=0).model_dump()
                empty: JSON = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": given}
                yield {"type": "message_start", "message": self.head | empty}
                continue
            for data in _events_of(delta, answer):
                yield data
            if delta.result is not None:
                message = await asyncio.to_thread(self._message, delta, delta.result, answer)
                ended = {name: message[name] for name in ("stop_reason", "stop_sequence")}
                told = {name: message[name] for name in ("usage", "diffusion")}
                yield {"type": "message_delta", "delta": ended, **told}
                yield {"type": "message_stop"}

    def _message(self, delta: Delta, result: Result, answer: Answer) -> JSON:
        """The whole answer, after its last delta."""
        tokens, cached = usage([result]), result.cached_tokens or 0
        used = MessagesUsage(
            input_tokens=tokens.prompt_tokens - cached,
            output_tokens=tokens.completion_tokens,
            cache_read_input_tokens=cached,
        )
        reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
        reason, stop = reasons[delta.finish_reason or "stop"], None
        if reason == "end_turn" and result.stop is not None:
            reason, stop = "stop_sequence", result.stop
        return self.head | {
            "content": [block.model_dump() for block in answer.blocks],
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": used.model_dump(),
            "diffusion": diffusion(self.generations, [result], bool(self.body.return_steps)),
        }


def _events_of(delta: Delta, answer: Answer) -> Iterator[JSON]:
    """What a delta adds to the blocks of an answer, event by event."""
    if delta.text:
        yield from answer.add_text(delta.text)
    if (delta.calls or delta.result is not None) and not delta.called:
        if not delta.calls and not answer.blocks:
            yield from answer.add_text("")
        yield from answer.end_text()
    for call in delta.calls:
        yield from answer.add_call(call)
