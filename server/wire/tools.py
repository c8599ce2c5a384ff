"""Tools as OpenAI's clients send them: functions that an answer may call, and the calls of earlier answers."""

from reprlib import repr as show
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import from_json

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_NAME

MAX_TOOLS = 128  # OpenAI's limit
MAX_CALLS = 128
ToolName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
SILENT = {"type", "properties", "required", "title", "description", "$schema"}  # words of a schema of no arguments
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class ToolFunction(BaseModel):
    """A function that an answer may call. Unknown names are ignored, as clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: ToolName = Field(description="its name")
    description: str | None = Field(None, description="what it does, for the model")
    parameters: dict[str, Any] | None = Field(None, description="the JSON schema of its arguments, an object")
    strict: bool | None = Field(
        None, description="true: refuse a schema that cannot be kept, instead of taking any JSON object"
    )

    @property
    def schema_(self) -> dict[str, Any]:
        """The schema of the arguments, an object; without any properties, that of no arguments."""
        given = {**(self.parameters or {}), "type": "object"}
        return given if given.get("properties") or given.keys() - SILENT else NO_ARGUMENTS

    @model_validator(mode="after")
    def _takes_an_object(self) -> "ToolFunction":
        if (kind := (self.parameters or {}).get("type", "object")) != "object":
            message = f"field 'parameters' must be the schema of an object, not of {show(kind)}; correct it"
            raise about("parameters", message)
        return self


def only_functions(tool: Any, function: str = "function") -> Any:
    """A tool as it came, where `function` is the type of functions. Raises what says that it has another."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if isinstance(kind, str) and kind != function:
        message = f"tools of type {kind[:MAX_NAME]!r} are not supported: this server runs none; leave them out"
        raise about("type", message, "unsupported_value")
    return tool


class Tool(BaseModel):
    """One of `tools`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"] = Field(description="only functions are supported")
    function: ToolFunction = Field(description="the function")

    _function = model_validator(mode="before")(only_functions)

    def for_template(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function = {"name": self.function.name, "description": self.function.description or ""}
        return {"type": "function", "function": {**function, "parameters": self.function.schema_}}


class NamedFunction(BaseModel):
    """The name of a function."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: ToolName = Field(description="its name")


class NamedTool(BaseModel):
    """OpenAI's way to ask for the call of one function."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"] = Field(description="always `function`")
    function: NamedFunction = Field(description="the function to call")


Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    expect('none, auto, required, or {"type": "function", "function": {"name": ...}}'),
]


class CalledFunction(BaseModel):
    """What an earlier answer called."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: ToolName = Field(description="name of the function")
    arguments: str | dict[str, Any] | None = Field(None, description="a JSON object as text, or the object itself")

    @property
    def values(self) -> dict[str, Any]:
        if isinstance(self.arguments, dict):
            return self.arguments
        return from_json(self.arguments or "{}", allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_object(self) -> "CalledFunction":
        try:
            wrong = not isinstance(self.values, dict)
        except ValueError:
            wrong = True
        if wrong:
            message = f"field 'arguments' must be the text of a JSON object, not {show(self.arguments)}; correct it"
            raise about("arguments", message)
        return self


class ToolCall(BaseModel):
    """A call in a message of the assistant."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str | None = Field(None, description="names the call, for the message with its result")
    type: Literal["function"] = Field("function", description="always `function`")
    function: CalledFunction = Field(description="the function and its arguments")

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it."""
        function = {"name": self.function.name, "arguments": self.function.values}
        return {"id": self.id or "", "type": "function", "function": function}


ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)]


class ToolFields(BaseModel):
    """The fields that ask for calls."""

    tools: Tools | None = Field(None, description="functions that the answer may call")
    tool_choice: ToolChoice | None = Field(
        None,
        description="none: call nothing; auto: the model decides; required: call something; or the function to call",
    )
    parallel_tool_calls: bool | None = Field(None, description="false: at most one call in an answer")

    @property
    def named_tool(self) -> str | None:
        """The function that must be called."""
        return self.tool_choice.function.name if isinstance(self.tool_choice, NamedTool) else None

    @model_validator(mode="after")
    def _tools_to_choose(self) -> "ToolFields":
        names = [tool.function.name for tool in self.tools or ()]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise about("tools", f"field 'tools' holds two functions named {show(twice)}; name each differently")
        if self.tool_choice not in (None, "none", "auto") and not names:
            raise about("tool_choice", "field 'tool_choice' asks for a call and 'tools' holds none; send the tools")
        if self.named_tool is not None and self.named_tool not in names:
            known = ", ".join(map(show, names))
            raise about("tool_choice", f"field 'tool_choice' names {show(self.named_tool)}; 'tools' has {known}")
        return self
