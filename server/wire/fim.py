"""The JSON of `POST /v1/fim/completions`, in Mistral's and Inception's shapes at once."""

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.chat import AnswerMessage
from server.wire.fields import MAX_SEED, about
from server.wire.openai import NEUTRAL, OpenAIFields


class FimRequest(OpenAIFields):
    """`POST /v1/fim/completions`: what is written between a prompt and a suffix."""

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        **NEUTRAL,
        "echo": (False,),
        "logprobs": (),
        "messages": (),
        "tools": ([],),
        "top_logprobs": (0,),
    }

    prompt: str = Field(description="text before the generation region")
    suffix: str | None = Field(None, description="text behind the generation region, which leads up to it")
    random_seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Mistral's name for `seed`")

    @property
    def alternatives(self) -> None:
        return None

    @model_validator(mode="after")
    def _one_seed(self) -> "FimRequest":
        if None not in (self.seed, self.random_seed) and self.seed != self.random_seed:
            raise about("seed", "fields 'seed' and 'random_seed' differ; give one of them")
        return self


class FimChoice(TokenSteps):
    """One text: as `text` for clients of Inception's, as a message (in a stream `delta`) for those of Mistral's."""

    index: int = Field(description="which choice")
    text: str = Field(description="what was generated, in a stream since the last chunk")
    message: AnswerMessage = Field(description="the same as a message")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: an end of text or a stop text; length: the generation region is full"
    )


class FimResponse(BaseModel):
    """The answer of `POST /v1/fim/completions`."""

    id: str = Field(description="of the answer, from `X-Request-Id` where the client sent one")
    object: Literal["text_completion"] = Field("text_completion", description="what this is")
    created: int = Field(description="when, in seconds since 1970")
    model: str = Field(description="that answered")
    choices: list[FimChoice] = Field(description="the texts")
    usage: Usage = Field(description="tokens in and out")
    diffusion: Diffusion = Field(description="how it came about")
