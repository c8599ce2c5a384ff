"""The JSON of Ollama's endpoints, below `/api`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, check_same, expect
from unmask.server.wire.fields import MAX_COUNT, MAX_SEED, UNSET, Body, GenerationFields
from unmask.server.wire.messages import TEXT_ONLY, Messages, TemplateValues
from unmask.server.wire.responses import Diffusion
from unmask.server.wire.structure import JsonSchema, ResponseFormat
from unmask.server.wire.tools import ToolFields
from unmask.server.wire.unsupported import UNSUPPORTED, Refusal, check_unsupported

_KEPT = ("mirostat", "typical_p", "format", "max_new_tokens", "n_predict", "chat_template", "regex", "grammar")
REFUSED = {name: UNSUPPORTED[name] for name in _KEPT}

NO_LOGPROBS, CHAT = "this endpoint gives no log-probabilities", "use /v1/chat/completions"
LATEST = ":latest"
EMPTY = BeforeValidator(lambda value: None if value == "" else value)  # as clients send a field that they leave out


def tagged(name: str) -> str:
    """A name as Ollama has it. Its clients add the tag to names without one, and look for those in the list."""
    return name if ":" in name else name + LATEST


class OllamaOptions(GenerationFields):
    """The fields of every generation, and Ollama's names for some. Others of its options, as `num_ctx`, are ignored."""

    model_config = ConfigDict(extra="allow")

    num_predict: int | None = Field(
        None, ge=-2, le=MAX_COUNT, description="Ollama's name for `max_tokens`; less than 1 counts as left out"
    )
    repeat_penalty: float | None = Field(None, gt=0, le=10, description="Ollama's name for `repetition_penalty`")
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED), UNSET] = Field(
        None, description="same seed, same text; random if left out, or -1"
    )

    @model_validator(mode="after")
    def _one_name(self) -> "OllamaOptions":
        check_unsupported(self.model_extra or {}, 1, type(self).model_fields, REFUSED)
        if self.num_predict is not None and self.num_predict < 1:
            self.num_predict = None
        check_same(self, "num_predict", "max_tokens")
        check_same(self, "repeat_penalty", "repetition_penalty")
        self.max_tokens = self.num_predict if self.max_tokens is None else self.max_tokens
        self.repetition_penalty = self.repeat_penalty if self.repetition_penalty is None else self.repetition_penalty
        return self


# Beside the options.
REFUSED_OUTSIDE: dict[str, Refusal] = {
    **dict.fromkeys(OllamaOptions.model_fields, ((), "how to generate stands in 'options'", "send it there")),
    "logprobs": ((False,), NO_LOGPROBS, CHAT),
    "top_logprobs": ((0,), NO_LOGPROBS, CHAT),
    "context": (([],), "this server keeps no conversations", "use /api/chat"),
    "images": (([],), TEXT_ONLY, "leave them out"),
    "template": (("",), "the server has the template", "start it with --chat-template FILE, or send 'raw': true"),
}


class OllamaFields(Body):
    """The fields that `/api/chat` and `/api/generate` share. Other names, as `keep_alive` and `think`, are ignored."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")
    stream: bool | None = Field(True, description="false: one answer; else a line of JSON for each piece of it")
    format: Annotated[Literal["json"] | dict[str, Any] | None, expect("'json', or a JSON schema"), EMPTY] = Field(
        None, description="the form of the answer: json, or a JSON schema"
    )
    options: OllamaOptions | None = Field(None, description="how to generate")

    @model_validator(mode="after")
    def _nothing_else(self) -> "OllamaFields":
        check_unsupported(self.model_extra or {}, 1, type(self).model_fields, REFUSED_OUTSIDE)
        if self.asked_format and (self.fields.response_format or self.fields.structured_outputs):
            raise about("format", "fields 'format' and 'response_format' exclude each other; leave one of the two out")
        return self

    @property
    def fields(self) -> GenerationFields:
        return self.options or OllamaOptions()

    @property
    def asked_format(self) -> ResponseFormat | None:
        """The form of the answer as the chat endpoint takes it."""
        if self.format is None:
            return None
        if self.format == "json":
            return ResponseFormat(type="json_object")
        return ResponseFormat(type="json_schema", json_schema=JsonSchema(schema=self.format))


class OllamaChatRequest(OllamaFields, ToolFields):
    """`POST /api/chat`."""

    messages: Messages = Field(description="a conversation, put through the chat template")
    chat_template_kwargs: TemplateValues = None


class OllamaGenerateRequest(OllamaFields):
    """`POST /api/generate`."""

    prompt: str | None = Field(
        None, description="what the user says, put through the chat template; none only asks whether the model is there"
    )
    system: str | None = Field(None, description="a system text before it")
    raw: bool | None = Field(None, description="true: take the prompt as it is, without the template")
    suffix: str | None = Field(None, description="text after the answer; then the prompt is taken as it is")

    @property
    def asks_nothing(self) -> bool:
        return not (self.prompt or self.suffix)


class OllamaNamed(Body):
    """`POST /api/show`. Other names are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")


class OllamaFunction(BaseModel):
    """What an answer calls."""

    name: str = Field(description="name of the function")
    arguments: dict[str, Any] = Field(description="its arguments")


class OllamaCall(BaseModel):
    """A call, for the client to run."""

    function: OllamaFunction = Field(description="the function and its arguments")


class OllamaMessage(BaseModel):
    """What an answer, or a line of it, says and calls."""

    role: Literal["assistant"] = Field("assistant", description="always `assistant`")
    content: str = Field(description="the generated text; in a stream what has settled since the last line")
    tool_calls: list[OllamaCall] | None = Field(None, description="what the answer calls")


class OllamaResponse(BaseModel):
    """What the answers of `/api/chat` and `/api/generate` share, and their last lines. Lines before end with `done`."""

    model: str = Field(description="name of the model")
    created_at: str = Field(description="time, in UTC")
    done: bool = Field(description="whether all of it is there")
    done_reason: Literal["stop", "length"] = Field(description="length: the generation region is full")
    total_duration: int = Field(description="nanoseconds from submission to the last pass")
    load_duration: int = Field(0, description="always 0")
    prompt_eval_count: int = Field(description="tokens given")
    prompt_eval_duration: int = Field(0, description="always 0: a pass reads the prompt and writes the answer")
    eval_count: int = Field(description="tokens generated")
    eval_duration: int = Field(description="nanoseconds from the first pass to the last")
    diffusion: Diffusion = Field(description="generation statistics")


class OllamaChatResponse(OllamaResponse):
    """The answer of `POST /api/chat`."""

    message: OllamaMessage = Field(description="the answer")


class OllamaGenerateResponse(OllamaResponse):
    """The answer of `POST /api/generate`."""

    response: str = Field(description="the generated text; in a stream what has settled since the last line")


class OllamaLoaded(BaseModel):
    """The answer of `POST /api/generate` to no prompt."""

    model: str = Field(description="name of the model")
    created_at: str = Field(description="time, in UTC")
    response: Literal[""] = Field("", description="always empty")
    done: Literal[True] = Field(True, description="always true")
    done_reason: Literal["load"] = Field("load", description="always `load`: the model is there")


class OllamaModel(BaseModel):
    """The model that is served. What is not known of it, as its digest, is left out."""

    name: str = Field(description="its name")
    model: str = Field(description="the same")
    modified_at: str = Field(description="when the server started, in UTC")
    details: dict[str, str] = Field(description="`format` of its weights")


class OllamaModels(BaseModel):
    """The answer of `GET /api/tags` and `GET /api/ps`."""

    models: list[OllamaModel] = Field(description="the model that is served, and its adapters")


class OllamaCard(BaseModel):
    """The answer of `POST /api/show`. What is not known of the model is left out."""

    modified_at: str = Field(description="when the server started, in UTC")
    details: dict[str, str] = Field(description="`format` of its weights")
    template: str = Field(description="the chat template in use, in Jinja; empty if it has none")
    capabilities: list[str] = Field(description="completion; insert, if a `suffix` is taken; tools, unless ignored")
    model_info: dict[str, Any] = Field(description="`general.architecture`, and the tokens of the longest canvas")


class OllamaError(BaseModel):
    """Every error, in Ollama's shape, with the fields of ours beside."""

    error: str = Field(description="one sentence: what is wrong and what to do")
    type: str = Field(description="kind of error")
    param: str | None = Field(description="the field that is wrong")
    code: str | None = Field(description="the error, for programs")
