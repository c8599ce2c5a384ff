"""The fields that OpenAI's generation endpoints share."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.errors import show
from unmask.server.wire.fields import GenerationFields, about
from unmask.server.wire.responses import GenerationResponse, TokenSteps

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20

# Fields of OpenAI and of other servers that are not implemented, with the values, other than null, that change nothing.
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
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
}


class StreamOptions(BaseModel):
    """OpenAI's options of a stream."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="end the stream with a chunk that counts the tokens")
    continuous_usage_stats: bool | None = Field(
        None, description="with `include_usage`: count the tokens so far in every chunk"
    )


class OpenAIFields(GenerationFields):
    """OpenAI's fields that its endpoints share, and ours.

    Fields of OpenAI that are not implemented are accepted only with values that change nothing.
    Unknown names are ignored, as clients send their own.
    """

    model_config = ConfigDict(extra="allow")

    neutral: ClassVar[dict[str, tuple[object, ...]]] = NEUTRAL

    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices per prompt, with seed, seed + 1, ...")
    stream_options: StreamOptions | None = Field(None, description="what a stream holds in addition to the text")
    return_token_ids: bool | None = Field(
        None,
        description="return the ids: `token_ids` per choice, in a stream per delta, and `prompt_token_ids`",
    )
    diffusing: bool | None = Field(
        None,
        description="stream after each step the whole text so far, which replaces the previous one; masks are "
        "\u2591. Needs `stream`",
    )
    user: str | None = Field(None, description="accepted for compatibility, and ignored")

    @model_validator(mode="after")
    def _nothing_else(self) -> "OpenAIFields":
        others = self.model_extra or {}
        for name in self.neutral.keys() & others.keys():
            value = others[name]
            if value is not None and not any(_same(value, asks_nothing) for asks_nothing in self.neutral[name]):
                raise about(name, f"field {name!r} is not supported with the value {show(value)}; leave it out")
        if self.stream_options is not None and not self.stream:
            raise about(
                "stream_options", "field 'stream_options' needs 'stream': true; set it or leave the options out"
            )
        if self.diffusing:
            self._check_diffusing()
        return self

    def _check_diffusing(self) -> None:
        if not self.stream:
            raise about("diffusing", "field 'diffusing' needs 'stream': true; set it or leave the field out")
        others = {"echo": getattr(self, "echo", None), "logprobs": self.alternatives is not None}
        others |= {"return_token_ids": self.return_token_ids, "stream_options": self.wants_usage_all_along}
        if other := next((name for name, given in others.items() if given), None):
            raise about(other, f"fields 'diffusing' and {other!r} exclude each other: a snapshot is not final")

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_usage_all_along(self) -> bool:
        return self.wants_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def wants_tokens(self) -> bool:
        """Whether the deltas of a stream must hold their tokens."""
        return bool(self.return_token_ids or self.alternatives is not None or self.wants_usage_all_along)


class Choice(TokenSteps):
    """The fields of every choice."""

    index: int = Field(description="number of the choice, from 0")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: an end of text or a stop text; length: the generation region is full; in a stream null "
        "until the choice ends"
    )


class OpenAIResponse(GenerationResponse):
    """Further fields of the responses of OpenAI's endpoints."""

    created: int = Field(description="time in seconds since 1970")


def _same(value: Any, other: object) -> bool:
    """Equality for which true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
