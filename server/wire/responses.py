"""What the answers of all generation endpoints have in common, and errors."""

from typing import Any

from pydantic import BaseModel, Field


class ArNess(BaseModel):
    """How close an order of reveal was to left to right, from 0 to 1 (DiffuCoder, arXiv 2506.20639, with k = 1)."""

    local: float = Field(description="share of tokens revealed right after their left neighbour")
    overall: float = Field(alias="global", description="share of tokens that were the leftmost mask when revealed")


class Diffusion(BaseModel):
    """Generation statistics. Of several choices: sums of what is counted, and of what is timed the longest.

    tokens_per_step counts generated tokens before the end of the text; the seconds are wall-clock.
    """

    scheduler: dict[str, Any] = Field(description="name and options")
    block_length: int = Field(description="tokens a block")
    cache: str = Field(description="keys and values kept from pass to pass")
    steps: int = Field(description="steps that were taken; a step is a forward pass as a request sees it")
    forward_passes: int = Field(description="the same number, by its other name")
    tokens_per_step: float = Field(description="generated tokens before the end of the text, for each step")
    tokens_per_second: float = Field(description="the same for each second of generating")
    queue_seconds: float = Field(description="from submission to the first pass")
    generate_seconds: float = Field(description="from the first pass to the last")
    ar_ness: ArNess | None = Field(None, description="with `return_steps`: mean over the choices")


class TokenSteps(BaseModel):
    """With `return_steps`: how each token of an answer became visible."""

    token_steps: list[int | None] | None = Field(
        None, description="the step that revealed it, from 0; null for what was given in the canvas"
    )
    token_confidences: list[float | None] | None = Field(None, description="its probability at that step")


class Usage(BaseModel):
    """Tokens in and out. What is given in a canvas or as `suffix` counts as prompt."""

    prompt_tokens: int = Field(description="given")
    completion_tokens: int = Field(description="generated")
    total_tokens: int = Field(description="both")


class GenerationResponse(BaseModel):
    """What every answer of a generation holds."""

    id: str = Field(description="of the answer, from `X-Request-Id` where the client sent one")
    model: str = Field(description="that answered")
    usage: Usage = Field(description="tokens in and out")
    diffusion: Diffusion = Field(description="generation statistics")


class ErrorDetail(BaseModel):
    message: str = Field(description="one sentence: what is wrong, and what to do")
    type: str = Field(description="kind of error")
    param: str | None = Field(description="the field that it is about")
    code: str | None = Field(description="which error, for programs")


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail = Field(description="what went wrong")
