"""What of tools an answer may call, and how it comes to a call.

A model decides by itself whether it calls: it writes freely until an opening tag has settled. Then a second canvas
begins after that tag, and all of it is held to the form of calls. Where a call must come, the first canvas is that one.
Where an answer without calls must have a form, too, the free text is for the decision only: it ends where JSON begins,
and the answer begins anew.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from unmask.engine.errors import RequestError
from unmask.engine.request import Request, Result, fit_block_length
from unmask.engine.structure import Structure, json_object, json_of
from unmask.models.loading import Model
from unmask.server.tools import hermes
from unmask.server.wire.tools import Tool, ToolFields

PARAM = "tools"
JSON_BEGINS = ("{", "[", '"')

Part = Literal["text", "decision", "calls"]


@dataclass(frozen=True)
class Calling:
    """How calls are asked for.

    tools      as the chat template is given them
    structure  of the calls, after the first opening tag
    loose      the same with any JSON object as arguments, for schemas that make too large an automaton; None where a
               tool is strict, or nothing would change
    must       whether the answer is calls and nothing else
    unheld     names of tools whose arguments may be any JSON object
    form       of an answer without calls; None for any
    needed     tokens of the shortest calls; 0 until the engine has said it
    """

    tools: tuple[dict[str, Any], ...]
    structure: Structure
    loose: "Calling | None"
    must: bool
    unheld: tuple[str, ...]
    form: Structure | None
    needed: int = 0

    def part(self, request: Request) -> Part:
        """Which part of an answer a request writes."""
        if request.structure == self.structure:
            return "calls"
        return "text" if request.structure == self.form else "decision"

    def beginning(self, request: Request, model: Model) -> Request:
        """The first request of an answer. Raises RequestError if it must call and there is no room."""
        if self.must:
            return self._calls(request, model.tokenizer.encode(hermes.BEGIN), model)
        if self.form is not None:
            return replace(request, stop=(hermes.OPENING, *JSON_BEGINS), structure=None)
        return replace(request, stop=(*request.stop, hermes.OPENING))

    def following(self, asked: Request, request: Request, result: Result, model: Model) -> Request | None:
        """What follows a request of an answer that was `asked` for: one for the calls that the answer has come to, or
        for its form; None if the answer ends."""
        if self.part(request) == "calls":
            return None
        if result.stop != hermes.OPENING:
            return replace(asked, id=uuid.uuid4().hex) if self.part(request) == "decision" else None
        said = model.tokenizer.decode(result.token_ids)
        kept = result.token_ids if result.text.startswith(said) else ()
        rest = result.text[len(said) if kept else 0 :]
        written = [*kept, *model.tokenizer.encode(rest + hermes.BEGIN)]
        return self._calls(asked, written, model) if asked.max_tokens - len(written) >= self.needed else None

    def _calls(self, asked: Request, written: Sequence[int], model: Model) -> Request:
        """The request for calls after what is written of an answer. Raises RequestError if there is no room."""
        room = asked.max_tokens - len(written)
        if room < self.needed:
            most = model.max_positions - len(asked.prompt)
            raise self.structure.no_room("call with its tags", self.needed + len(written), asked.max_tokens, most)
        return replace(
            self.of_calls(asked),
            id=uuid.uuid4().hex,
            prompt=(*asked.prompt, *written),
            max_tokens=room,
            block_length=fit_block_length(asked.block_length, room, model.network.architecture),
        )

    def of_calls(self, asked: Request) -> Request:
        """A request with the form of calls. Stop texts would cut them."""
        return replace(asked, stop=(), min_tokens=0, ignore_eos=False, structure=self.structure)


def calling_of(body: ToolFields, form: Structure | None) -> Calling | None:
    """How a body asks for calls, where other answers have a form; None if it does not.

    Raises RequestError for a strict schema that cannot be held.
    """
    if not body.tools or body.tool_choice == "none":
        return None
    callable_ = [tool for tool in body.tools if body.named_tool in (None, tool.function.name)]
    must = body.tool_choice not in (None, "auto")
    several = body.parallel_tool_calls is not False and body.named_tool is None
    tools = tuple(tool.for_template() for tool in body.tools)
    held = {tool.function.name: regex for tool in callable_ if (regex := _arguments(tool)) is not None}
    names = tuple(tool.function.name for tool in callable_)
    strict = any(tool.function.strict for tool in callable_)
    loose = None if strict or not held else Calling(tools, _structure({}, names, several), None, must, names, form)
    unheld = tuple(name for name in names if name not in held)
    return Calling(tools, _structure(held, unheld, several), loose, must, unheld, form)


def _arguments(tool: Tool) -> str | None:
    """The regular expression of a tool's arguments; None for any JSON object."""
    try:
        return json_of(tool.function.schema_, PARAM).regex
    except RequestError:
        if tool.function.strict:
            raise
        return None


def _structure(held: dict[str, str], unheld: Sequence[str], several: bool) -> Structure:
    calls = [hermes.call_regex([name], arguments) for name, arguments in held.items()]
    calls += [hermes.call_regex(unheld, json_object(PARAM).regex)] if unheld else []
    return Structure(hermes.calls_regex(calls, several), PARAM)
