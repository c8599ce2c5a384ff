"""Conversations as clients send them, on every endpoint that takes messages."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_NAME, MAX_OPTIONS
from unmask.server.wire.tools import ToolCalls

MAX_MESSAGES = 8192
MAX_PARTS = 1024
PARTS = 'a text, or a list of parts {"type": "text", "text": ...}'
OLD_TOOLS = "it is OpenAI's old way to call functions"
TEXT_ONLY = "the model reads text only"
# The answer would depend on them.
REFUSED = {
    **dict.fromkeys(("audio", "images"), (TEXT_ONLY, "leave it out")),
    "function_call": (OLD_TOOLS, "send 'tool_calls'"),
}


def _or_plain(schema: dict[str, Any]) -> None:
    """Say in the JSON schema of a part that it may be a plain text, too."""
    schema["type"] = ["object", "string"]


class TextPart(BaseModel):
    """A part of a message; only texts are supported. Unknown names are ignored, as clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore", json_schema_extra=_or_plain)

    type: Literal["text"] = Field(description="only texts are supported; a part `refusal` is the text of its `refusal`")
    text: str = Field(description="the text")

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, part: Any) -> Any:
        """A plain text is a part as well, and a refusal is what the assistant said."""
        if isinstance(part, str):
            return {"type": "text", "text": part}
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "refusal":
            return {"type": "text", "text": part.get("refusal")}
        if kind in ("input_text", "output_text"):  # of /v1/responses
            return {"type": "text", "text": part.get("text")}
        if isinstance(kind, str) and kind != "text":
            message = f"parts of type {kind[:MAX_NAME]!r} are not supported: {TEXT_ONLY}; leave them out"
            raise about(None, message, "unsupported_value")
        return part


Parts = Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]


class Message(BaseModel):
    """One turn of a conversation. Unknown names are ignored, as clients send their own and answers as they came."""

    model_config = ConfigDict(strict=True, json_schema_extra={"additionalProperties": True})

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(
        description="developer, OpenAI's newer word, means system; tool: the result of a call"
    )
    content: Annotated[str | Parts | None, expect(PARTS)] = Field(
        None, description="the text; parts are joined by line breaks. The assistant may have said nothing"
    )
    tool_calls: ToolCalls | None = Field(None, description="of the assistant: what it called")
    tool_call_id: str | None = Field(None, description="of the role tool: which call this is the result of")
    name: str | None = Field(None, description="who speaks, for chat templates that know names; others ignore it")

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, message: Any) -> Any:
        """Refuse what the answer would depend on. A value that is not an object is refused later."""
        if not isinstance(message, dict):
            return message
        if message.get("role") == "function":
            refused = f"messages of the role 'function' are not supported: {OLD_TOOLS}; send the role 'tool'"
            raise about("role", refused, "unsupported_value")
        for field, (why, remedy) in REFUSED.items():
            if message.get(field) not in (None, [], {}, ""):
                refused = f"field {field!r} of a message is not supported: {why}; {remedy}"
                raise about(field, refused, "unsupported_parameter")
        return message

    @model_validator(mode="after")
    def _something(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise about("content", f"field 'content' of a message must be {PARTS}, not None")
        if self.tool_calls and self.role != "assistant":
            raise about("tool_calls", f"field 'tool_calls' is not for the role {self.role!r}; leave it out")
        return self

    @property
    def text(self) -> str:
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it."""
        role = "system" if self.role == "developer" else self.role
        calls = [call.for_template() for call in self.tool_calls or ()]
        further = {"name": self.name, "tool_calls": calls or None, "tool_call_id": self.tool_call_id}
        return {
            "role": role,
            "content": self.text,
            **{name: value for name, value in further.items() if value is not None},
        }


class Prediction(BaseModel):
    """OpenAI's `prediction`: what the client expects the answer to begin with."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Literal["content"] = Field(description="always `content`")
    content: Annotated[str | Parts, expect(PARTS)] = Field(description="the text; parts are joined")

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


Predicted = Annotated[
    Prediction | None,
    Field(
        description="a text that the answer is expected to begin with; what the model would write itself is kept and "
        "costs hardly a pass, the rest is decoded as ever"
    ),
]
Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
TemplateValues = Annotated[
    dict[Annotated[str, Field(max_length=MAX_NAME)], Any] | None,
    Field(max_length=MAX_OPTIONS, description="further values for the chat template, by name, as `enable_thinking`"),
]


def check_template_values(messages: object, values: object) -> None:
    """Raise an error for values of a template that nothing goes through."""
    if values and messages is None:
        raise about("chat_template_kwargs", "field 'chat_template_kwargs' is for messages; leave it out")
