"""The JSON of `POST /generate`."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.fields import GenerationFields, Message, TokenIds, about


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
            raise about(
                "prompt", f"give exactly one of the fields {', '.join(names)}, not {' and '.join(given) or 'none'}"
            )
        return self


class GenerateResponse(TokenSteps):
    """The answer of `POST /generate`."""

    id: str
    model: str
    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    usage: Usage
    diffusion: Diffusion
