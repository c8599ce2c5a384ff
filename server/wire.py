"""The JSON that comes in and goes out. Plain data: nothing here knows the engine, a model or a tensor."""

import json
import logging
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

log = logging.getLogger(__name__)

MAX_COUNT = 2**31 - 1  # what an engine's integer can hold
MAX_SEED = 2**63 - 1
MAX_CHOICES = 128
MAX_STOPS = 16  # OpenAI takes 4; evaluation harnesses send more
MAX_STOP_LENGTH = 256  # characters; each step looks for every beginning of each stop text

# OpenAI's and other servers' fields that are not implemented: the values, beside null, that ask for nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "canvas": (),
    "diffusing": (False,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "suffix": ("",),
}


def _expect(what: str) -> WrapValidator:
    """Answer any failure of a union with one sentence, instead of one for each of its members."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "Input should be {what}", {"what": what}) from None

    return WrapValidator(check)


def _about(field: str | None, message: str) -> PydanticCustomError:
    """An error of the whole body that is about one field."""
    return PydanticCustomError("body", "{message}", {"message": message, "param": field})


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenIds = list[int]
Prompts = Annotated[
    str | list[str] | TokenIds | list[TokenIds],
    _expect("a text, a list of texts, a list of token ids or a list of such lists"),
]


class GenerationFields(BaseModel):
    """The fields of every generation endpoint. Null is the same as leaving a field out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str | None = Field(None, description="name of the model; may be left out, as one model is served")
    max_tokens: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="length of the generation region, which is filled with masks at first"
    )
    block_length: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="blocks of so many tokens are filled left to right; max_tokens or more is one block",
    )
    scheduler: Annotated[str | dict[str, Any] | None, _expect("a name, or an object with a name and options")] = Field(
        None,
        description='chooses which tokens to reveal: a name, or {"name": ..., option: value, ...}; see /v1/schedulers',
    )
    steps: int | None = Field(None, description="shorthand for the scheduler's option of that name")
    threshold: float | None = Field(
        None,
        description="shorthand for the option of that name; chooses the scheduler `threshold` if none is named",
    )
    policy: str | None = Field(None, description="as `threshold`, for the option `policy`")
    speed: float | None = Field(None, description="shorthand for the scheduler's option of that name")
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, proposes the most probable token")
    top_p: float | None = Field(None, gt=0, le=1, description="sample among the most probable tokens of this total")
    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description="sample among so many tokens; 0 and -1 mean all")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed, same text; random if left out")
    stop: Annotated[
        StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None,
        _expect(f"a text or a list of at most {MAX_STOPS} texts, each of 1 to {MAX_STOP_LENGTH} characters"),
    ] = Field(None, description="texts that end the generation; they are not part of it")
    max_forward_passes: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="after so many, everything left is revealed at once"
    )
    cache: str | None = Field(
        None, description="keys and values kept from pass to pass: none, prefix, dual, dual:refresh=8, block, or auto"
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds that the request may take, waiting included; then it ends with an error"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    return_steps: bool | None = Field(
        None,
        description="tell of each token the step that revealed it and its probability then, and in `diffusion` how "
        "close the order was to left to right",
    )

    @model_validator(mode="before")
    @classmethod
    def _readable(cls, body: Any) -> Any:
        """Refuse what is no Unicode text, and names of fields where the class takes only its own."""
        if not isinstance(body, dict):
            return body
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise _about(
                None, "the body holds half of a surrogate pair, which is no text; send whole characters"
            ) from None
        unknown = [name for name in body if name not in cls.model_fields]
        if unknown and cls.model_config.get("extra") == "forbid":
            fields = ", ".join(cls.model_fields)
            raise _about(unknown[0], f"field {unknown[0]!r:.60} is unknown; the fields are: {fields}")
        return body

    @property
    def shorthands(self) -> dict[str, int | float | str]:
        """The scheduler options that were given as fields of their own."""
        given = {name: getattr(self, name) for name in ("steps", "threshold", "policy", "speed")}
        return {name: value for name, value in given.items() if value is not None}


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str


class GenerateRequest(GenerationFields):
    """`POST /generate`. Give exactly one of `prompt`, `messages` and `input_ids`."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(None, description="raw text; special tokens are not added")
    messages: list[Message] | None = Field(
        None, min_length=1, description="a conversation, put through the chat template"
    )
    input_ids: TokenIds | None = Field(None, description="token ids")

    @model_validator(mode="after")
    def _one_prompt(self) -> "GenerateRequest":
        names = ("prompt", "messages", "input_ids")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise _about(
                "prompt", f"give exactly one of the fields {', '.join(names)}, not {' and '.join(given) or 'none'}"
            )
        return self


class StreamOptions(BaseModel):
    """OpenAI's options of a stream."""

    include_usage: bool | None = Field(None, description="end the stream with a chunk that counts tokens")


class CompletionRequest(GenerationFields):
    """`POST /v1/completions`: OpenAI's fields and ours.

    Fields of OpenAI's that are not implemented are taken at the values that ask for nothing and refused at any other.
    Names that nobody knows are ignored, as clients send their own.
    """

    model_config = ConfigDict(extra="allow")

    prompt: Prompts = Field(description="one or more prompts; each has its choices in the response")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices for each prompt, with seed, seed + 1, ...")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted for compatibility; nothing depends on it")

    @model_validator(mode="after")
    def _nothing_else(self) -> "CompletionRequest":
        for name, value in (self.model_extra or {}).items():
            if name not in _NEUTRAL:
                log.debug("field %r of a completion request is unknown and has no effect", name)
            elif value is not None and value not in _NEUTRAL[name]:
                raise _about(name, f"field {name!r} is not supported with the value {value!r:.60}; leave it out")
        if self.stream_options is not None and not self.stream:
            raise _about(
                "stream_options", "field 'stream_options' needs 'stream': true; set it or leave the options out"
            )
        return self


class ArNess(BaseModel):
    """How close an order of reveal was to left to right, from 0 to 1 (DiffuCoder, arXiv 2506.20639, with k = 1)."""

    local: float = Field(description="share of tokens revealed right after their left neighbour")
    overall: float = Field(alias="global", description="share of tokens that were the leftmost mask when revealed")


class Diffusion(BaseModel):
    """How the text came about. Of several choices: sums of what is counted, and of what is timed the longest.

    tokens_per_step counts generated tokens before the end of the text; the seconds are wall-clock.
    """

    scheduler: dict[str, Any] = Field(description="name and options")
    block_length: int
    cache: str
    steps: int
    forward_passes: int
    tokens_per_step: float
    tokens_per_second: float
    queue_seconds: float
    generate_seconds: float
    ar_ness: ArNess | None = Field(None, description="with `return_steps`: mean over the choices")


class TokenSteps(BaseModel):
    """With `return_steps`: how each token of an answer became visible."""

    token_steps: list[int] | None = Field(None, description="the step that revealed it, from 0")
    token_confidences: list[float] | None = Field(None, description="its probability at that step")


class Usage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateResponse(TokenSteps):
    """The answer of `POST /generate`."""

    id: str
    model: str
    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    usage: Usage
    diffusion: Diffusion


class CompletionChoice(TokenSteps):
    """One text of a completion, or in a stream a piece of it."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(BaseModel):
    """The answer of `POST /v1/completions`, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None
    diffusion: Diffusion | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail
