"""The JSON of `POST /v1/fim/completions`, in Mistral's and Inception's shapes at once."""

from typing import Literal

from pydantic import Field, model_validator

from unmask.server.wire.chat import AnswerMessage
from unmask.server.wire.faults import check_same
from unmask.server.wire.fields import MAX_SEED
from unmask.server.wire.openai import Choice, OpenAIFields, OpenAIResponse


class FimRequest(OpenAIFields):
    """`POST /v1/fim/completions`: the text between a prompt and a suffix."""

    prompt: str = Field(description="text before the generation region")
    suffix: str | None = Field(None, description="text after the generation region")
    random_seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Mistral's name for `seed`")

    @model_validator(mode="after")
    def _one_seed(self) -> "FimRequest":
        check_same(self, "seed", "random_seed")
        self.seed = self.random_seed if self.seed is None else self.seed
        return self


class FimChoice(Choice):
    """One text: as `text` for clients of Inception, and as a message (in a stream `delta`) for clients of Mistral."""

    text: str = Field(description="the generated text; in a stream, since the last chunk")
    message: AnswerMessage = Field(description="the same as a message")


class FimResponse(OpenAIResponse):
    """The answer of `POST /v1/fim/completions`."""

    object: Literal["text_completion"] = Field("text_completion", description="what this is")
    choices: list[FimChoice] = Field(description="the texts")
