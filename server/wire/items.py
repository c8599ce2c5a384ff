"""The items of `POST /v1/responses`: what a conversation comes in as, and what an answer goes out as."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_NAME
from unmask.server.wire.messages import MAX_MESSAGES, PARTS, Message, Parts
from unmask.server.wire.tools import CalledFunction, ToolCall, ToolName

IGNORED = "reasoning"  # of a model that reasons, which clients send back with the rest
KINDS = ("message", "function_call", "function_call_output", IGNORED)
Text = Annotated[str | Parts | None, expect(PARTS)]


class InputItem(BaseModel):
    """An item of `input`. Unknown names are ignored, as clients send answers back as they came."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = Field(
        "message", description="message; a call of an earlier answer; its result; or reasoning, which is ignored"
    )
    role: Literal["system", "developer", "user", "assistant"] | None = Field(
        None, description="of a message: who spoke"
    )
    content: Text = Field(None, description="of a message: the text, or parts of it")
    call_id: str | None = Field(None, description="names the call, in the call and in its result")
    name: ToolName | None = Field(None, description="of a call: the function")
    arguments: str | None = Field(None, description="of a call: the text of a JSON object")
    output: Text = Field(None, description="of a result: the text, or parts of it")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, item: Any) -> Any:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "item_reference":
            raise about("type", "this server keeps no items, so none can be referred to; send the item itself")
        if isinstance(kind, str) and kind not in KINDS:
            message = f"items of type {kind[:MAX_NAME]!r} are not supported: this server runs no tools; leave them out"
            raise about("type", message, "unsupported_value")
        return {"content": None} | item if kind == IGNORED else item

    @model_validator(mode="after")
    def _whole(self) -> "InputItem":
        needed = {"message": ("role",), "function_call": ("name",), "function_call_output": ("call_id", "output")}
        for field in needed.get(self.type, ()):
            if getattr(self, field) is None:
                raise about(field, f"field {field!r} of an item of type {self.type!r} is missing; give it")
        if self.type == "message":
            self.as_message()
        if self.type == "function_call":
            self.as_call()
        return self

    def as_message(self) -> Message:
        """A message, or the result of a call, as the chat endpoint takes it."""
        if self.type == "function_call_output":
            return Message(role="tool", content=self.output, tool_call_id=self.call_id)
        assert self.role is not None
        return Message(role=self.role, content=self.content)

    def as_call(self) -> ToolCall:
        """A call as the chat endpoint takes it."""
        function = CalledFunction(name=self.name or "", arguments=self.arguments)
        return ToolCall(id=self.call_id, type="function", function=function)


def as_messages(items: Sequence[InputItem]) -> list[Message]:
    """Items as messages: calls belong to the assistant's turn that they stand in."""
    messages = list[Message]()
    for item in items:
        if item.type == "function_call":
            if not messages or messages[-1].role != "assistant":
                messages.append(Message(role="assistant", content=None))
            turn = messages[-1]
            messages[-1] = turn.model_copy(update={"tool_calls": [*(turn.tool_calls or ()), item.as_call()]})
        elif item.type != IGNORED:
            messages.append(item.as_message())
    return messages


Items = Annotated[list[InputItem], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class OutputText(BaseModel):
    """The text of a message."""

    type: Literal["output_text"] = Field("output_text", description="always `output_text`")
    text: str = Field(description="the generated text")
    annotations: list[Any] = Field([], description="always empty")
    logprobs: list[Any] = Field([], description="always empty")


class OutputMessage(BaseModel):
    """What an answer says."""

    type: Literal["message"] = Field("message", description="always `message`")
    id: str = Field(description="names the item")
    status: Literal["in_progress", "completed", "incomplete"] = Field(description="whether all of it is there")
    role: Literal["assistant"] = Field("assistant", description="always `assistant`")
    content: list[OutputText] = Field(description="one text")


class OutputCall(BaseModel):
    """What an answer calls, for the client to run."""

    type: Literal["function_call"] = Field("function_call", description="always `function_call`")
    id: str = Field(description="names the item")
    call_id: str = Field(description="names the call, for the item with its result")
    name: str = Field(description="name of the function")
    arguments: str = Field(description="the text of a JSON object")
    status: Literal["in_progress", "completed"] = Field(description="whether all of it is there")


OutputItem = OutputMessage | OutputCall
