"""The JSON of `POST /v1/completions`."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from server.wire.fields import TokenIds, expect
from server.wire.openai import MAX_TOP_LOGPROBS, NEUTRAL, Choice, OpenAIAnswer, OpenAIFields

Prompts = Annotated[
    str | list[str] | TokenIds | list[TokenIds],
    expect("a text, a list of texts, a list of token ids or a list of such lists"),
]


class CompletionRequest(OpenAIFields):
    """`POST /v1/completions`: OpenAI's fields and ours."""

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {**NEUTRAL, "messages": (), "tools": ([],), "top_logprobs": (0,)}

    prompt: Prompts = Field(description="one or more prompts; each has its choices in the response")
    suffix: str | None = Field(None, description="text behind the generation region, which leads up to it")
    echo: bool | None = Field(None, description="begin each text with its prompt")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="tell of each token its log-probability at the step that revealed it, and so many of the most "
        "probable tokens; with `echo` of the prompt too, each token seen from those before it",
    )

    @property
    def alternatives(self) -> int | None:
        return self.logprobs


class CompletionLogprobs(BaseModel):
    """An entry a token. Null stands for the first token of an echoed prompt, which nothing predicts."""

    tokens: list[str] = Field(description="texts of the tokens")
    token_logprobs: list[float | None] = Field(description="their log-probabilities")
    top_logprobs: list[dict[str, float] | None] = Field(description="the token itself is always among them")
    text_offset: list[int] = Field(description="characters of the tokens before it")


class CompletionChoice(Choice):
    """One text of a completion, or in a stream a piece of it."""

    text: str = Field(description="what was generated, in a stream since the last chunk")
    logprobs: CompletionLogprobs | None = Field(None, description="with `logprobs`")
    token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    prompt_token_ids: list[int] | None = Field(None, description="with `return_token_ids`")


class CompletionResponse(OpenAIAnswer):
    """The answer of `POST /v1/completions`. Chunks of its stream may lack `usage` and `diffusion`."""

    object: Literal["text_completion"] = Field("text_completion", description="what this is")
    choices: list[CompletionChoice] = Field(description="the texts")
