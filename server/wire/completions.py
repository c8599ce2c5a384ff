"""The JSON of `POST /v1/completions`."""

import logging
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.fields import GenerationFields, TokenIds, about, expect

log = logging.getLogger(__name__)

MAX_CHOICES = 128

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
}


Prompts = Annotated[
    str | list[str] | TokenIds | list[TokenIds],
    expect("a text, a list of texts, a list of token ids or a list of such lists"),
]


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
    suffix: str | None = Field(None, description="text behind the generation region, which leads up to it")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted for compatibility; nothing depends on it")

    @model_validator(mode="after")
    def _nothing_else(self) -> "CompletionRequest":
        for name, value in (self.model_extra or {}).items():
            if name not in _NEUTRAL:
                log.debug("field %r of a completion request is unknown and has no effect", name)
            elif value is not None and value not in _NEUTRAL[name]:
                raise about(name, f"field {name!r} is not supported with the value {value!r:.60}; leave it out")
        if self.stream_options is not None and not self.stream:
            raise about(
                "stream_options", "field 'stream_options' needs 'stream': true; set it or leave the options out"
            )
        return self


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
