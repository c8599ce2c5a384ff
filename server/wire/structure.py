"""The fields that ask for an answer of a certain form: OpenAI's `response_format` and vLLM's `structured_outputs`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect

MAX_REGEX = 1 << 14  # characters
MAX_CHOICES = 1024
MAX_CHOICE = 4096  # characters
_OTHERS = ("grammar", "structural_tag", "whitespace_pattern")  # of vLLM, which are not implemented

Schema = Annotated[dict[str, Any] | bool, expect("a JSON schema, which is an object, true or false")]
Choice = Annotated[str, Field(min_length=1, max_length=MAX_CHOICE)]


class JsonSchema(BaseModel):
    """OpenAI's `json_schema`. Unknown names are ignored, as clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    schema_: Schema = Field(alias="schema", description="the JSON schema")
    name: str | None = Field(None, description="accepted for compatibility, and ignored")
    strict: bool | None = Field(None, description="accepted for compatibility, and ignored: answers are always valid")
    description: str | None = Field(None, description="accepted for compatibility, and ignored")


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="text: anything; json_object: any JSON object; json_schema: JSON that the schema accepts"
    )
    json_schema: JsonSchema | None = Field(None, description="with the type json_schema: the schema")

    @model_validator(mode="before")
    @classmethod
    def _no_schema_beside(cls, value: Any) -> Any:
        """Some servers take one there, so who sends it expects it to be kept."""
        if isinstance(value, dict) and value.get("schema") is not None:
            message = "field 'schema' belongs into 'json_schema', with the type 'json_schema'; send it there"
            raise about("schema", message, "unsupported_parameter")
        return value

    @model_validator(mode="after")
    def _schema_for_its_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            message = "fields 'type': 'json_schema' and 'json_schema' need each other; send both, or none of them"
            raise about(None, message)
        return self


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`. Give exactly one of its fields. Its switches `disable_...` are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")

    json_: Annotated[Schema | str | None, expect("a JSON schema, or its text")] = Field(
        None, alias="json", description="a JSON schema, or its text"
    )
    json_object: bool | None = Field(None, description="true: any JSON object")
    regex: str | None = Field(
        None, max_length=MAX_REGEX, description="a regular expression that the whole answer matches"
    )
    choice: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)] | None = Field(
        None, description="texts; the answer is one of them"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_others(cls, value: Any) -> Any:
        for name in _OTHERS:
            if isinstance(value, dict) and value.get(name) is not None:
                raise about(None, f"field {name!r} is not supported; use json, json_object, regex or choice")
        return value

    @model_validator(mode="after")
    def _one(self) -> "StructuredOutputs":
        given = [self.json_, self.json_object or None, self.regex, self.choice]
        if sum(one is not None for one in given) != 1:
            raise about(None, "give exactly one of json, json_object, regex and choice")
        return self
