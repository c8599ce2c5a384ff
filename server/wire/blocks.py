"""The blocks of `POST /v1/messages`: what turns come in as, and what an answer goes out as."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_NAME
from unmask.server.wire.messages import MAX_MESSAGES, MAX_PARTS, PARTS, TEXT_ONLY, Message, Parts, TextPart
from unmask.server.wire.tools import CalledFunction, ToolCall, ToolName

IGNORED = ("thinking", "redacted_thinking")  # of a model that reasons, which clients send back with the rest
KINDS = ("text", "tool_use", "tool_result", *IGNORED)
BLOCKS = 'a text, or a list of blocks {"type": "text", "text": ...}'
SystemText = str | Parts


class Block(BaseModel):
    """A block of a turn. Unknown names are ignored, as clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text", "tool_use", "tool_result", "thinking", "redacted_thinking"] = Field(
        description="text; a call of an earlier answer; its result; or thinking, which is ignored"
    )
    text: str | None = Field(None, description="of a text")
    id: str | None = Field(None, description="of a call: names it")
    name: ToolName | None = Field(None, description="of a call: the function")
    input: dict[str, Any] | None = Field(None, description="of a call: its arguments")
    tool_use_id: str | None = Field(None, description="of a result: names the call")
    content: Annotated[str | Parts | None, expect(PARTS)] = Field(
        None, description="of a result: the text, or parts of it"
    )

    @model_validator(mode="before")
    @classmethod
    def _known(cls, block: Any) -> Any:
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind not in KINDS:
            message = f"blocks of type {kind[:MAX_NAME]!r} are not supported: {TEXT_ONLY}; leave them out"
            raise about(None, message, "unsupported_value")
        return block

    @model_validator(mode="after")
    def _whole(self) -> "Block":
        needed = {"text": ("text",), "tool_use": ("name",), "tool_result": ("tool_use_id",)}
        for field in needed.get(self.type, ()):
            if getattr(self, field) is None:
                raise about(field, f"field {field!r} of a block of type {self.type!r} is missing; give it")
        return self

    def as_call(self) -> ToolCall:
        """A call as the chat endpoint takes it."""
        function = CalledFunction(name=self.name or "", arguments=self.input)
        return ToolCall(id=self.id, type="function", function=function)


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="ignore")

    role: Literal["user", "assistant", "system"] = Field(description="who spoke")
    content: Annotated[
        str | Annotated[list[Block], Field(max_length=MAX_PARTS, fail_fast=True)],
        expect(BLOCKS),
    ] = Field(description="the text, or blocks")

    @model_validator(mode="after")
    def _blocks_of_the_role(self) -> "Turn":
        of = {"tool_use": "assistant", "tool_result": "user"}
        for block in self.content if isinstance(self.content, list) else ():
            if of.get(block.type, self.role) != self.role:
                message = f"blocks of type {block.type!r} are not for the role {self.role!r}; leave them out"
                raise about("content", message)
        return self

    def as_messages(self) -> Iterator[Message]:
        """The turn as the chat endpoint takes it: results of calls are messages of their own, before the text."""
        blocks = [Block(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        for block in blocks:
            if block.type == "tool_result":
                yield Message(role="tool", content=block.content or "", tool_call_id=block.tool_use_id)
        texts = [TextPart(type="text", text=block.text or "") for block in blocks if block.type == "text"]
        calls = [block.as_call() for block in blocks if block.type == "tool_use"]
        if texts or calls or self.role == "assistant":
            yield Message(role=self.role, content=texts or None, tool_calls=calls or None)


Turns = Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class AnswerText(BaseModel):
    """What an answer says."""

    type: Literal["text"] = Field("text", description="always `text`")
    text: str = Field(description="the generated text")


class AnswerCall(BaseModel):
    """What an answer calls, for the client to run."""

    type: Literal["tool_use"] = Field("tool_use", description="always `tool_use`")
    id: str = Field(description="names the call, for the block with its result")
    name: str = Field(description="name of the function")
    input: dict[str, Any] = Field(description="its arguments")


AnswerBlock = AnswerText | AnswerCall
