"""The JSON of `POST /score`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.fields import MAX_COUNT, MAX_SEED, MAX_TOKENS, Body, Messages, TokenIds, about, expect
from unmask.server.wire.responses import Usage

MAX_PATTERNS = 1024
MAX_PAIRS = 64
MAX_SAMPLES = 1024

Position = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positions = Annotated[list[Position], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]


class ScoreRequest(Body):
    """`POST /score`. Give a completion, and at most one of `prompt`, `messages` and `input_ids` before it."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model; may be left out, as one model is served")
    prompt: str | None = Field(None, description="raw text before the completion")
    messages: Messages | None = Field(None, description="a conversation before it, put through the chat template")
    input_ids: TokenIds | None = Field(None, description="token ids before it")
    completion: Annotated[str | TokenIds, expect("a text or a list of token ids")] = Field(
        description="what is scored; it holds no mask"
    )
    patterns: list[Positions] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PATTERNS,
        fail_fast=True,
        description="which positions of the completion to mask, from 0, one list for each pass. With nothing else "
        "asked for, one with all of them",
    )
    coupled_pairs: int | None = Field(
        None,
        ge=1,
        le=MAX_PAIRS,
        description="coupled-GRPO's estimate for each token: the mean over this many pairs of complementary masks, in "
        "each of which it is masked once, and the full mask",
    )
    likelihood_samples: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES,
        description="the Monte-Carlo estimate of a lower bound of log p(completion | prompt), from this many masks",
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds that the request may take, waiting included; then it ends with an error"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="of the masks that are drawn; 0 if left out")

    @model_validator(mode="after")
    def _one_prompt(self) -> "ScoreRequest":
        names = ("prompt", "messages", "input_ids")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise about("prompt", f"give at most one of the fields {', '.join(names)}, not {' and '.join(given)}")
        return self


class PatternScore(BaseModel):
    """The masked tokens of one pattern."""

    masked: list[int] = Field(description="the positions that were masked")
    log_probabilities: list[float] = Field(description="of the token at each of these positions")
    sum: float = Field(description="of them")


class CoupledScore(BaseModel):
    """Coupled-GRPO's estimate (DiffuCoder, arXiv 2506.20639)."""

    masks: list[list[int]] = Field(description="that were drawn: one of a pair, then the other")
    log_probabilities: list[float] = Field(description="of each token of the completion")
    sum: float = Field(description="of them")


class LikelihoodScore(BaseModel):
    """The bound of the log-likelihood (LLaDA, arXiv 2502.09992, equation 6), in nats."""

    samples: int = Field(description="masks that were drawn")
    log_likelihood: float = Field(description="the estimate")
    standard_error: float | None = Field(description="of the estimate; null for one sample")


class ScoreResponse(BaseModel):
    """The answer of `POST /score`. What was not asked for is left out."""

    id: str = Field(description="of the answer, from `X-Request-Id` where the client sent one")
    model: str = Field(description="that answered")
    token_ids: list[int] = Field(description="of the completion")
    tokens: list[str] = Field(description="their texts")
    patterns: list[PatternScore] | None = Field(None, description="in the order of the request")
    coupled: CoupledScore | None = Field(None, description="with `coupled_pairs`")
    likelihood: LikelihoodScore | None = Field(None, description="with `likelihood_samples`")
    forward_passes: int = Field(description="canvases that were looked at")
    usage: Usage = Field(description="tokens of one canvas")
