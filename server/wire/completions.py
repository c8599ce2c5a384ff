"""The JSON of `POST /v1/completions`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_COUNT, UNSET, TokenIds
from unmask.server.wire.openai import MAX_TOP_LOGPROBS, Choice, OpenAIFields, OpenAIResponse

MAX_PROMPTS = 1 << 14

Prompts = Annotated[
    str
    | Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True)]
    | TokenIds
    | Annotated[list[TokenIds], Field(max_length=MAX_PROMPTS, fail_fast=True)],
    expect("a text, a list of texts, a list of token ids or a list of such lists"),
]


class CompletionRequest(OpenAIFields):
    """`POST /v1/completions`: OpenAI's fields and ours."""

    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_COUNT), UNSET] = Field(
        None, description="0 with `echo` generates nothing and describes the prompt alone"
    )
    prompt: Prompts = Field(description="one or more prompts; the response has choices for each")
    suffix: str | None = Field(None, description="text after the generation region")
    echo: bool | None = Field(None, description="start each text with its prompt")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="return each token's log-probability at the step that revealed it, and this many of the most "
        "probable tokens; with `echo` also for the prompt, each token predicted from those before it",
    )

    @model_validator(mode="after")
    def _something(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise about("max_tokens", "field 'max_tokens' of 0 needs 'echo': true; set it or ask for tokens")
        return self

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class CompletionLogprobs(BaseModel):
    """One entry per token, also for the end of text. The first token of an echoed prompt has null."""

    tokens: list[str] = Field(
        description="texts of the tokens; a part of a character is given as its bytes, as `bytes:\\xc3`"
    )
    token_logprobs: list[float | None] = Field(description="log-probabilities of the tokens")
    top_logprobs: list[dict[str, float] | None] = Field(description="the most probable tokens, and the token itself")
    text_offset: list[int] = Field(
        description="characters of the text before the token; all parts of a character have its offset"
    )


class CompletionChoice(Choice):
    """One text of a completion; in a stream, what was added to it."""

    text: str = Field(description="the generated text; in a stream, since the last chunk")
    logprobs: CompletionLogprobs | None = Field(None, description="with `logprobs`")
    token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    prompt_token_ids: list[int] | None = Field(None, description="with `return_token_ids`")


class CompletionResponse(OpenAIResponse):
    """The answer of `POST /v1/completions`. Chunks of its stream may lack `usage` and `diffusion`."""

    object: Literal["text_completion"] = Field("text_completion", description="what this is")
    choices: list[CompletionChoice] = Field(description="the texts")
