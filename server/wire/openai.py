"""What the bodies of OpenAI's generation endpoints have in common."""

import logging
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from server.wire.fields import GenerationFields, about

log = logging.getLogger(__name__)

MAX_CHOICES = 128

# Fields of OpenAI's and of other servers' that are not implemented: the values, beside null, that ask for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (False,),
    "allowed_token_ids": (),
    "bad_words": ([],),
    "best_of": (1,),
    "canvas": (),
    "frequency_penalty": (0,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


class StreamOptions(BaseModel):
    """OpenAI's options of a stream."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="end the stream with a chunk that counts tokens")


class OpenAIFields(GenerationFields):
    """OpenAI's fields that its endpoints share, and ours.

    Fields of OpenAI's that are not implemented are taken at the values that ask for nothing and refused at any other.
    Names that nobody knows are ignored, as clients send their own.
    """

    model_config = ConfigDict(extra="allow")

    neutral: ClassVar[dict[str, tuple[object, ...]]] = NEUTRAL

    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices for each prompt, with seed, seed + 1, ...")
    stream_options: StreamOptions | None = Field(None, description="what a stream tells beside the text")
    user: str | None = Field(None, description="accepted for compatibility; nothing depends on it")

    @model_validator(mode="after")
    def _nothing_else(self) -> "OpenAIFields":
        for name, value in (self.model_extra or {}).items():
            if name not in self.neutral:
                log.debug("field %r of a request is unknown and has no effect", name)
            elif value is not None and not any(_same(value, asks_nothing) for asks_nothing in self.neutral[name]):
                raise about(name, f"field {name!r} is not supported with the value {value!r:.60}; leave it out")
        if self.stream_options is not None and not self.stream:
            raise about(
                "stream_options", "field 'stream_options' needs 'stream': true; set it or leave the options out"
            )
        return self


def _same(value: Any, other: object) -> bool:
    """Equality that does not take true for 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
