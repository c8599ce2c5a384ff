"""The JSON of `POST /v1/messages`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.blocks import AnswerBlock, SystemText, Turns
from unmask.server.wire.faults import about, check_same, expect
from unmask.server.wire.fields import MAX_STOPS, Body, GenerationFields, StopText
from unmask.server.wire.messages import PARTS, Message, TemplateValues
from unmask.server.wire.responses import Diffusion
from unmask.server.wire.structure import JsonSchema, ResponseFormat, Schema
from unmask.server.wire.tools import (
    MAX_TOOLS,
    NamedFunction,
    NamedTool,
    Tool,
    ToolFields,
    ToolFunction,
    ToolName,
    only_functions,
)
from unmask.server.wire.unsupported import UNSUPPORTED, Refusal, check_unsupported

_CHAT = "use /v1/chat/completions"
# As `UNSUPPORTED`, for this endpoint.
_REFUSED: dict[str, Refusal] = {
    "mcp_servers": (([],), "this server runs no tools", "leave it out"),
    "input": ((), "this endpoint answers 'messages'", "send those, or use /v1/responses"),
    "logprobs": ((False,), "this endpoint gives no log-probabilities", _CHAT),
    "top_logprobs": ((0,), "this endpoint gives no log-probabilities", _CHAT),
    "n": ((1,), "this endpoint gives one answer", _CHAT),
    "output_format": ((), "it is the older name of 'output_config'", 'send {"format": ...} there'),
    "max_completion_tokens": ((), "the length is 'max_tokens'", "send that instead"),
    "parallel_tool_calls": ((True,), "this is said in 'tool_choice'", "set its 'disable_parallel_tool_use'"),
}
REFUSED = {**{name: refusal for name, refusal in UNSUPPORTED.items() if name != "chat_template_kwargs"}, **_REFUSED}
_CHOICES: dict[str, Literal["none", "auto", "required"]] = {"none": "none", "auto": "auto", "any": "required"}


class ClientTool(BaseModel):
    """A function that the answer may call. Unknown names are ignored, as clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["custom"] | None = Field(None, description="only functions are supported")
    name: ToolName = Field(description="its name")
    description: str | None = Field(None, description="what it does, for the model")
    input_schema: dict[str, Any] | None = Field(None, description="the JSON schema of its arguments, an object")
    strict: bool | None = Field(
        None, description="true: refuse a schema that cannot be kept, instead of taking any JSON object"
    )

    @model_validator(mode="before")
    @classmethod
    def _function(cls, tool: Any) -> Any:
        return only_functions(tool, "custom")

    @model_validator(mode="after")
    def _takes_an_object(self) -> "ClientTool":
        if (self.input_schema or {}).get("type", "object") != "object":
            raise about("input_schema", "field 'input_schema' must be the schema of an object; correct it")
        return self

    def as_tool(self) -> Tool:
        """The tool as the chat endpoint takes it."""
        function = ToolFunction(
            name=self.name, description=self.description, parameters=self.input_schema, strict=self.strict
        )
        return Tool(type="function", function=function)


class ClientChoice(BaseModel):
    """Whether to call, and what."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["auto", "any", "tool", "none"] = Field(
        description="none: call nothing; auto: the model decides; any: call something; tool: call the one that is named"
    )
    name: ToolName | None = Field(None, description="with the type tool: its name")
    disable_parallel_tool_use: bool | None = Field(None, description="true: at most one call in an answer")

    @model_validator(mode="after")
    def _name_for_a_tool(self) -> "ClientChoice":
        if (self.type == "tool") != (self.name is not None):
            raise about("name", "fields 'type': 'tool' and 'name' need each other; send both, or none of them")
        return self

    @property
    def as_choice(self) -> Literal["none", "auto", "required"] | NamedTool:
        """The choice as the chat endpoint takes it."""
        if self.name is not None:
            return NamedTool(type="function", function=NamedFunction(name=self.name))
        return _CHOICES[self.type]


class OutputFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["json_schema"] = Field(description="JSON that the schema accepts")
    schema_: Schema = Field(alias="schema", description="the schema")


class OutputConfig(BaseModel):
    """Anthropic's `output_config`. Unknown names, as `effort`, are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    format: OutputFormat | None = Field(None, description="the form of the answer")


class ConversationFields(BaseModel):
    """The fields that make the prompt."""

    messages: Turns = Field(description="a conversation, put through the chat template")
    system: Annotated[SystemText | None, expect(PARTS)] = Field(
        None, description="a system text before the conversation"
    )
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = Field(
        None, description="functions that the answer may call"
    )
    tool_choice: ClientChoice | None = Field(None, description="whether to call, and what")
    chat_template_kwargs: TemplateValues = None

    def tool_fields(self) -> ToolFields:
        """The tools as the chat endpoint takes them."""
        choice = self.tool_choice
        return ToolFields(
            tools=[tool.as_tool() for tool in self.tools or ()],
            tool_choice=choice and choice.as_choice,
            parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        )

    def as_messages(self) -> list[Message]:
        """The conversation as the chat endpoint takes it."""
        first = [] if self.system is None else [Message(role="system", content=self.system)]
        return [*first, *(message for turn in self.messages for message in turn.as_messages())]

    @model_validator(mode="after")
    def _something(self) -> "ConversationFields":
        if not self.as_messages():
            raise about("messages", "field 'messages' holds no text, call or result; give one")
        self.tool_fields()
        return self


class CountRequest(ConversationFields, Body):
    """`POST /v1/messages/count_tokens`. Fields that make no prompt are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")


class CountResponse(BaseModel):
    """The answer of `POST /v1/messages/count_tokens`."""

    input_tokens: int = Field(description="tokens of the prompt")


class MessagesRequest(GenerationFields, ConversationFields):
    """`POST /v1/messages`: Anthropic's fields and ours."""

    model_config = ConfigDict(extra="allow")

    stop_sequences: Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)] | None = Field(
        None, description="this endpoint's name for `stop`"
    )
    output_config: OutputConfig | None = Field(None, description="the form of the answer, as `response_format`")

    @model_validator(mode="after")
    def _nothing_else(self) -> "MessagesRequest":
        check_unsupported(self.model_extra or {}, 1, type(self).model_fields, REFUSED)
        check_same(self, "stop_sequences", "stop")
        self.stop = self.stop_sequences if self.stop is None else self.stop
        if self.asked_format and (self.response_format or self.structured_outputs):
            raise about(
                "output_config",
                "fields 'output_config' and 'response_format' exclude each other; leave one of the two out",
            )
        return self

    @property
    def asked_format(self) -> ResponseFormat | None:
        """The form of the answer as the chat endpoint takes it."""
        if self.output_config is None or self.output_config.format is None:
            return None
        return ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=self.output_config.format.schema_))


class MessagesUsage(BaseModel):
    """Tokens in and out."""

    input_tokens: int = Field(
        description="tokens given but for `cache_read_input_tokens`; in the first event of a stream with them"
    )
    output_tokens: int = Field(description="tokens generated; in the first event of a stream 0")
    cache_creation_input_tokens: int = Field(0, description="always 0")
    cache_read_input_tokens: int = Field(
        0, description="of the first tokens given, how many needed no pass: their blocks had been computed"
    )


class MessagesResponse(BaseModel):
    """The answer of `POST /v1/messages`."""

    id: str = Field(description="id of the response, from `X-Request-Id` if the client sent one")
    type: Literal["message"] = Field("message", description="what this is")
    role: Literal["assistant"] = Field("assistant", description="always `assistant`")
    model: str = Field(description="name of the model")
    content: list[AnswerBlock] = Field(description="what it says and calls")
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None = Field(
        description="end_turn: an end of text; max_tokens: the generation region is full; stop_sequence: a stop text; "
        "tool_use: it calls tools"
    )
    stop_sequence: str | None = Field(None, description="the stop text that ended it")
    usage: MessagesUsage = Field(description="counts of tokens")
    diffusion: Diffusion | None = Field(None, description="generation statistics; in a stream with its end")
