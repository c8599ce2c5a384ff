"""The JSON of `POST /v1/responses`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, check_same, expect
from unmask.server.wire.fields import MAX_COUNT, GenerationFields
from unmask.server.wire.items import Items, OutputItem
from unmask.server.wire.messages import TemplateValues
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

LOGPROBS = "message.output_text.logprobs"
_KEEPS_NOTHING = "this server keeps no answers"
_SEND_ALL = "send the whole conversation in 'input'"
# As `UNSUPPORTED`, for this endpoint.
_REFUSED: dict[str, Refusal] = {
    "previous_response_id": ((), _KEEPS_NOTHING, _SEND_ALL),
    "conversation": ((), _KEEPS_NOTHING, _SEND_ALL),
    "background": ((False,), _KEEPS_NOTHING, "leave it out"),
    "prompt": ((), "this server keeps no prompts", "send the text in 'input'"),
    "messages": ((), "this endpoint answers 'input'", "send that, or use /v1/chat/completions"),
    "logprobs": ((False,), "this endpoint gives no log-probabilities", "use /v1/chat/completions"),
    "top_logprobs": ((0,), "this endpoint gives no log-probabilities", "use /v1/chat/completions"),
    "n": ((1,), "this endpoint gives one answer", "use /v1/chat/completions"),
    "max_completion_tokens": ((), "the length is 'max_output_tokens'", "send that instead"),
}
REFUSED = {**{name: refusal for name, refusal in UNSUPPORTED.items() if name != "chat_template_kwargs"}, **_REFUSED}


class FlatTool(ToolFunction):
    """A function that the answer may call."""

    type: Literal["function"] = Field(description="only functions are supported")

    _function = model_validator(mode="before")(only_functions)


class FlatNamedTool(BaseModel):
    """The one function that must be called."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"] = Field(description="always `function`")
    name: ToolName = Field(description="its name")


class TextFormat(BaseModel):
    """The form of the answer."""

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="text: anything; json_object: any JSON object; json_schema: JSON that the schema accepts"
    )
    schema_: Schema | None = Field(None, alias="schema", description="with the type json_schema: the schema")
    name: str | None = Field(None, description="accepted for compatibility, and ignored")
    strict: bool | None = Field(None, description="accepted for compatibility, and ignored: answers are always valid")

    @model_validator(mode="after")
    def _schema_for_its_type(self) -> "TextFormat":
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise about(None, "fields 'type': 'json_schema' and 'schema' need each other; send both, or none of them")
        return self

    def as_response_format(self) -> ResponseFormat:
        """The same as the chat endpoint takes it."""
        schema = None if self.schema_ is None else JsonSchema(schema=self.schema_)
        return ResponseFormat(type=self.type, json_schema=schema)


class TextOptions(BaseModel):
    """OpenAI's `text`. Unknown names, as `verbosity`, are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    format: TextFormat | None = Field(None, description="the form of the answer")


class ResponsesRequest(GenerationFields):
    """`POST /v1/responses`: OpenAI's fields and ours."""

    model_config = ConfigDict(extra="allow")

    input: Annotated[str | Items, expect("a text, or a list of items")] = Field(
        description="what the user says, or a conversation as items"
    )
    instructions: str | None = Field(None, description="a system text before the conversation")
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_COUNT, description="this endpoint's name for `max_tokens`")
    text: TextOptions | None = Field(None, description="the form of the answer, as `response_format`")
    tools: Annotated[list[FlatTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = Field(
        None, description="functions that the answer may call"
    )
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | FlatNamedTool | None,
        expect('none, auto, required, or {"type": "function", "name": ...}'),
    ] = Field(None, description="as on the chat endpoint; a function that must be called stands there by its name")
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer")
    chat_template_kwargs: TemplateValues = None
    metadata: dict[str, Any] | None = Field(None, description="returned as it is")
    include: list[str] | None = Field(
        None, description="what an answer should hold beside; this server has nothing to add, and no log-probabilities"
    )

    @model_validator(mode="after")
    def _nothing_else(self) -> "ResponsesRequest":
        check_same(self, "max_output_tokens", "max_tokens")
        self.max_tokens = self.max_output_tokens if self.max_tokens is None else self.max_tokens
        check_unsupported(self.model_extra or {}, 1, type(self).model_fields, REFUSED)
        if LOGPROBS in (self.include or []):
            why = "this endpoint gives no log-probabilities; use /v1/chat/completions"
            raise about("include", f"field 'include' with {LOGPROBS!r} is not supported: {why}", "unsupported_value")
        if self.asked_format and (self.response_format or self.structured_outputs):
            raise about("text", "fields 'text' and 'response_format' exclude each other; leave one of the two out")
        self.tool_fields()
        return self

    @property
    def asked_format(self) -> ResponseFormat | None:
        """The form of the answer as the chat endpoint takes it."""
        return self.text.format.as_response_format() if self.text and self.text.format else None

    def tool_fields(self) -> ToolFields:
        """The tools as the chat endpoint takes them."""
        choice: Any = self.tool_choice
        if isinstance(choice, FlatNamedTool):
            choice = NamedTool(type="function", function=NamedFunction(name=choice.name))
        tools = [Tool(type="function", function=tool) for tool in self.tools or ()]
        return ToolFields(tools=tools, tool_choice=choice, parallel_tool_calls=self.parallel_tool_calls)


class InputDetails(BaseModel):
    """More about the tokens in."""

    cached_tokens: int = Field(
        0, description="of the first ones, how many needed no pass: their blocks had been computed"
    )
    cache_write_tokens: int = Field(0, description="always 0")


class OutputDetails(BaseModel):
    """More about the tokens out."""

    reasoning_tokens: int = Field(0, description="always 0")


class ResponsesUsage(BaseModel):
    """Tokens in and out."""

    input_tokens: int = Field(description="tokens given")
    input_tokens_details: InputDetails = Field(InputDetails(), description="more about them")
    output_tokens: int = Field(description="tokens generated")
    output_tokens_details: OutputDetails = Field(OutputDetails(), description="more about them")
    total_tokens: int = Field(description="the sum of both")


class IncompleteDetails(BaseModel):
    """Why an answer is not complete."""

    reason: Literal["max_output_tokens"] = Field(description="the generation region is full")


class ResponsesResponse(BaseModel):
    """The answer of `POST /v1/responses`. Beside these it repeats what was asked for, as OpenAI's does."""

    id: str = Field(description="id of the response, from `X-Request-Id` if the client sent one")
    object: Literal["response"] = Field("response", description="what this is")
    created_at: int = Field(description="time in seconds since 1970")
    model: str = Field(description="name of the model")
    status: Literal["in_progress", "completed", "incomplete", "failed"] = Field(
        description="whether all of it is there"
    )
    incomplete_details: IncompleteDetails | None = Field(None, description="why it is incomplete")
    error: None = Field(None, description="always null: what fails is an error")
    output: list[OutputItem] = Field(description="what it says and calls")
    usage: ResponsesUsage | None = Field(None, description="counts of tokens, when all of it is there")
    diffusion: Diffusion | None = Field(None, description="generation statistics, when all of it is there")
