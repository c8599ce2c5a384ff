"""The fields that the responses of all generation endpoints share, and errors."""

from typing import Any

from pydantic import BaseModel, Field


class ArNess(BaseModel):
    """How close an order of reveal was to left to right, from 0 to 1 (DiffuCoder, arXiv 2506.20639, with k = 1)."""

    local: float = Field(description="share of tokens revealed right after their left neighbour")
    overall: float = Field(alias="global", description="share of tokens that were the leftmost mask when revealed")


class Speed(BaseModel):
    """What the load chose, of the way from the careful to the fast value of an option."""

    auto: list[float] = Field(description="the least and the largest share of the way that it might choose")
    mean: float = Field(description="the share that it chose, the mean over all forward passes")
    option: str = Field(description="the scheduler's option that it set")
    careful: float = Field(description="the value of that at the share 0")
    fast: float = Field(description="the same at the share 1")


class Diffusion(BaseModel):
    """Generation statistics. For several choices, counts are sums and times are the longest.

    tokens_per_step counts generated tokens before the end of the text; the seconds are wall-clock.
    """

    scheduler: dict[str, Any] = Field(description="name and options")
    length: int = Field(
        description="tokens of the generation region, the longest of several; less than `max_tokens` where no more fit"
    )
    block_length: int = Field(description="tokens per block")
    cache: str = Field(description="keys and values kept from pass to pass")
    input_state: dict[str, Any] = Field(description="what the model was fed in place of masks: name and options")
    steps: int = Field(description="steps taken; a step is one forward pass as a request sees it")
    forward_passes: int = Field(description="the same number under another name")
    tokens_per_step: float = Field(description="generated tokens before the end of the text, per step")
    tokens_per_second: float = Field(description="the same per second of generating")
    queue_seconds: float = Field(description="from submission to the first pass")
    generate_seconds: float = Field(description="from the first pass to the last")
    forced_tokens: int | None = Field(
        None, description="with a form of the answer: tokens that it left no choice for, which cost no step"
    )
    accepted_prediction_tokens: int | None = Field(
        None, description="with `prediction`: its tokens that the answers have at the same positions"
    )
    rejected_prediction_tokens: int | None = Field(None, description="with `prediction`: its other tokens")
    speed: Speed | None = Field(None, description="with the speed `auto`: what the load chose")
    loose_tools: list[str] | None = Field(
        None, description="tools whose schema this server cannot hold: a call of them has any JSON object as arguments"
    )
    ar_ness: ArNess | None = Field(None, description="with `return_steps`: mean over the choices")


class TokenSteps(BaseModel):
    """With `return_steps`: when each token of an answer was revealed."""

    token_steps: list[int | None] | None = Field(
        None, description="the step that revealed each token, from 0; null for tokens of the canvas"
    )
    token_confidences: list[float | None] | None = Field(None, description="the probability of each token at that step")


class CompletionDetails(BaseModel):
    """What became of the tokens of a `prediction`. Rejected ones are not among the generated."""

    accepted_prediction_tokens: int = Field(description="that the answers have at the same positions")
    rejected_prediction_tokens: int = Field(description="the others")


class PromptDetails(BaseModel):
    """More about the tokens given."""

    cached_tokens: int = Field(description="of the first ones, how many needed no pass: their blocks had been computed")


class Usage(BaseModel):
    """Tokens in and out. Tokens of a canvas or a `suffix` count as prompt."""

    prompt_tokens: int = Field(description="tokens given")
    completion_tokens: int = Field(description="tokens generated")
    total_tokens: int = Field(description="the sum of both")
    prompt_tokens_details: PromptDetails | None = Field(
        None, description="of block-causal models with cache `block`, unless the server keeps nothing"
    )
    completion_tokens_details: CompletionDetails | None = Field(None, description="with `prediction`")


class GenerationResponse(BaseModel):
    """The fields of every response to a generation."""

    id: str = Field(description="id of the response, from `X-Request-Id` if the client sent one")
    model: str = Field(description="name of the model")
    usage: Usage = Field(description="counts of tokens")
    diffusion: Diffusion = Field(description="generation statistics")


class ErrorDetail(BaseModel):
    message: str = Field(description="one sentence: what is wrong and what to do")
    type: str = Field(description="kind of error")
    param: str | None = Field(description="the field that is wrong")
    code: str | None = Field(description="the error, for programs")


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: ErrorDetail = Field(description="what went wrong")
