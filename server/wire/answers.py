"""What the answers of all generation endpoints have in common, and errors."""

from typing import Any

from pydantic import BaseModel, Field


class ArNess(BaseModel):
    """How close an order of reveal was to left to right, from 0 to 1 (DiffuCoder, arXiv 2506.20639, with k = 1)."""

    local: float = Field(description="share of tokens revealed right after their left neighbour")
    overall: float = Field(alias="global", description="share of tokens that were the leftmost mask when revealed")


class Diffusion(BaseModel):
    """How the text came about. Of several choices: sums of what is counted, and of what is timed the longest.

    tokens_per_step counts generated tokens before the end of the text; the seconds are wall-clock.
    """

    scheduler: dict[str, Any] = Field(description="name and options")
    block_length: int
    cache: str
    steps: int
    forward_passes: int
    tokens_per_step: float
    tokens_per_second: float
    queue_seconds: float
    generate_seconds: float
    ar_ness: ArNess | None = Field(None, description="with `return_steps`: mean over the choices")


class TokenSteps(BaseModel):
    """With `return_steps`: how each token of an answer became visible."""

    token_steps: list[int | None] | None = Field(
        None, description="the step that revealed it, from 0; null for what was given in the canvas"
    )
    token_confidences: list[float | None] | None = Field(None, description="its probability at that step")


class Usage(BaseModel):
    """Tokens in and out. What is given in a canvas or as `suffix` counts as prompt."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail
