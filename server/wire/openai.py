"""The fields that OpenAI's generation endpoints share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, check_same
from unmask.server.wire.fields import MAX_COUNT, MAX_SEED, UNSET, GenerationFields
from unmask.server.wire.responses import GenerationResponse, TokenSteps
from unmask.server.wire.unsupported import check_unsupported

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20


class StreamOptions(BaseModel):
    """OpenAI's options of a stream."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = Field(None, description="end the stream with a chunk that counts the tokens")
    continuous_usage_stats: bool | None = Field(
        None, description="with `include_usage`: count the tokens so far in every chunk"
    )


class OpenAIFields(GenerationFields):
    """OpenAI's fields that its endpoints share, and ours.

    Fields of other servers that are not implemented are accepted only with values that change nothing.
    Unknown names are ignored, as clients send their own, unless they are all but those of a field.
    """

    model_config = ConfigDict(extra="allow")

    max_tokens: Annotated[int | None, Field(ge=1, le=MAX_COUNT), UNSET] = Field(
        None, description="length of the generation region in tokens; -1 counts as left out"
    )
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MAX_COUNT), UNSET] = Field(
        None, description="OpenAI's newer name for `max_tokens`"
    )
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED), UNSET] = Field(
        None, description="same seed, same text; random if left out, or -1"
    )
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
    def _one_length(self) -> "OpenAIFields":
        check_same(self, "max_tokens", "max_completion_tokens")
        self.max_tokens = self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return self

    @model_validator(mode="after")
    def _nothing_else(self) -> "OpenAIFields":
        check_unsupported(self.model_extra or {}, self.n or 1, type(self).model_fields)
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
