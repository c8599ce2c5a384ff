"""The JSON of `POST /v1/completions`."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.fields import TokenIds, expect
from server.wire.openai import NEUTRAL, OpenAIFields

Prompts = Annotated[
    str | list[str] | TokenIds | list[TokenIds],
    expect("a text, a list of texts, a list of token ids or a list of such lists"),
]


class CompletionRequest(OpenAIFields):
    """`POST /v1/completions`: OpenAI's fields and ours."""

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        **NEUTRAL,
        "diffusing": (False,),
        "echo": (False,),
        "logprobs": (),
    }

    prompt: Prompts = Field(description="one or more prompts; each has its choices in the response")
    suffix: str | None = Field(None, description="text behind the generation region, which leads up to it")


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
