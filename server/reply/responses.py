"""How `POST /v1/responses` answers: whole, or as OpenAI's sequence of events."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
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
from unmask.server.wire.items import OutputCall, OutputMessage, OutputText
from unmask.server.wire.openai_responses import InputDetails, ResponsesRequest, ResponsesUsage

JSON = dict[str, Any]


@dataclass
class Output:
    """The items of one answer, as they grow."""

    items: list[OutputMessage | OutputCall] = field(default_factory=list)
    text: str = ""

    @property
    def index(self) -> int:
        """Of the last item."""
        return len(self.items) - 1

    def begin_message(self) -> None:
        self.items.append(OutputMessage(id=_id("msg"), status="in_progress", content=[]))

    def end_message(self, complete: bool) -> None:
        status = "completed" if complete else "incomplete"
        changes = {"status": status, "content": [OutputText(text=self.text)]}
        self.items[-1] = self.items[-1].model_copy(update=changes)

    def add_call(self, call: Call) -> None:
        names = {"id": _id("fc"), "call_id": _id("call")}
        self.items.append(OutputCall(**names, name=call.name, arguments=call.arguments, status="completed"))


@dataclass(frozen=True)
class ResponsesReply:
    """One HTTP request: what was asked, what runs for it, and the fields that its answer begins with."""

    body: ResponsesRequest
    generations: Generations
    head: JSON

    async def whole(self) -> Response:
        """The whole answer."""
        (result,) = await self.generations.results()
        output = Output()
        for _ in _events_of(whole(0, result, calls=calls_of(self.generations.answer(0))), output):
            pass  # the items are what counts
        return JSONResponse(await asyncio.to_thread(self._ended, result, output))

    async def events(self) -> AsyncIterator[str]:
        """The stream. It begins with the first step, as that of the chat endpoint."""
        number = 0
        async for data in self._unnumbered():
            yield event(data | {"sequence_number": number}, data["type"])
            number += 1

    async def _unnumbered(self) -> AsyncIterator[JSON]:
        output = Output()
        try:
            async for delta in deltas(self.generations, with_tokens=False, echoes=[NO_ECHO]):
                if delta.opens:
                    for name in ("created", "in_progress"):
                        yield {"type": f"response.{name}", "response": self._response("in_progress", Output())}
                    continue
                for data in _events_of(delta, output):
                    yield data
                if delta.result is not None:
                    response = await asyncio.to_thread(self._ended, delta.result, output)
                    yield {"type": f"response.{response['status']}", "response": response}
        except EngineError as error:
            told = error_body(error)
            yield {"type": "error", "error": told, **{name: told[name] for name in ("code", "message", "param")}}

    def _ended(self, result: Result, output: Output) -> JSON:
        """The whole response."""
        response = self._response("incomplete" if result.finish_reason == "length" else "completed", output)
        tokens = usage([result])
        response["usage"] = ResponsesUsage(
            input_tokens=tokens.prompt_tokens,
            input_tokens_details=InputDetails(cached_tokens=result.cached_tokens or 0),
            output_tokens=tokens.completion_tokens,
            total_tokens=tokens.total_tokens,
        ).model_dump()
        return response | {"diffusion": diffusion(self.generations, [result], bool(self.body.return_steps))}

    def _response(self, status: str, output: Output) -> JSON:
        body, (request, *_) = self.body, self.generations.requests
        form = body.text.format if body.text and body.text.format else None
        choice = body.tool_choice or "auto"
        return self.head | {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None,
            "output": [item.model_dump() for item in output.items],
            "usage": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": request.top_p,
            "truncation": "disabled",
        }


def _events_of(delta: Delta, output: Output) -> Iterator[JSON]:
    """What a delta adds to the items of an answer, event by event."""
    if delta.text:
        if not output.items:
            yield from _message_begins(output)
        output.text += delta.text
        yield _of_text(output, "response.output_text.delta", delta=delta.text, logprobs=[])
    if (delta.calls or delta.result is not None) and not delta.called:
        if not output.items and not delta.calls:
            yield from _message_begins(output)
        if output.items:
            complete = bool(delta.calls) or delta.result is None or delta.result.finish_reason != "length"
            yield from _message_ends(output, complete)
    for call in delta.calls:
        yield from _call_events(call, output)


def _message_begins(output: Output) -> Sequence[JSON]:
    output.begin_message()
    empty = OutputText(text="").model_dump()
    return _of_item(output, "response.output_item.added"), _of_text(output, "response.content_part.added", part=empty)


def _message_ends(output: Output, complete: bool) -> Sequence[JSON]:
    output.end_message(complete)
    part = OutputText(text=output.text).model_dump()
    return (
        _of_text(output, "response.output_text.done", text=output.text, logprobs=[]),
        _of_text(output, "response.content_part.done", part=part),
        _of_item(output, "response.output_item.done"),
    )


def _call_events(call: Call, output: Output) -> Sequence[JSON]:
    output.add_call(call)
    place = {"item_id": output.items[-1].id, "output_index": output.index}
    begun = {"status": "in_progress", "arguments": ""}
    return (
        _of_item(output, "response.output_item.added", begun),
        {"type": "response.function_call_arguments.delta", **place, "delta": call.arguments},
        {"type": "response.function_call_arguments.done", **place, "name": call.name, "arguments": call.arguments},
        _of_item(output, "response.output_item.done"),
    )


def _of_item(output: Output, name: str, changes: JSON | None = None) -> JSON:
    item = output.items[-1].model_dump() | (changes or {})
    return {"type": name, "output_index": output.index, "item": item}


def _of_text(output: Output, name: str, **fields: Any) -> JSON:
    place = {"item_id": output.items[-1].id, "output_index": output.index, "content_index": 0}
    return {"type": name, **place, **fields}


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
