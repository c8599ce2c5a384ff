"""The JSON of `POST /score`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_COUNT, MAX_SEED, MAX_TOKENS, Body, TokenIds
from unmask.server.wire.messages import Messages, TemplateValues, check_template_values
from unmask.server.wire.responses import Usage

MAX_PATTERNS = 1024
MAX_PAIRS = 64
MAX_SAMPLES = 1024

Position = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positions = Annotated[list[Position], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]


class ScoreRequest(Body):
    """`POST /score`. Give a completion, and at most one of `prompt`, `messages` and `input_ids` before it."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")
    prompt: str | None = Field(None, description="raw text before the completion")
    messages: Messages | None = Field(None, description="a conversation before it, put through the chat template")
    chat_template_kwargs: TemplateValues = None
    input_ids: TokenIds | None = Field(None, description="token ids before it")
    completion: Annotated[str | TokenIds, expect("a text or a list of token ids")] = Field(
        description="the text to score; it holds no mask"
    )
    patterns: list[Positions] | None = Field(
        None,
        min_length=1,
        max_length=MAX_PATTERNS,
        fail_fast=True,
        description="positions of the completion to mask, from 0, one list per pass. If nothing else is asked for, "
        "one list with all of them",
    )
    coupled_pairs: int | None = Field(
        None,
        ge=1,
        le=MAX_PAIRS,
        description="coupled-GRPO's estimate per token: the mean over this many pairs of complementary masks, each of "
        "which masks the token once, and the full mask",
    )
    likelihood_samples: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES,
        description="the Monte-Carlo estimate of a lower bound of log p(completion | prompt), from this many masks",
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds that the request may take, with waiting; then it ends with an error"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="seed of the masks that are drawn; 0 if left out")

    @model_validator(mode="after")
    def _one_prompt(self) -> "ScoreRequest":
        names = ("prompt", "messages", "input_ids")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise about("prompt", f"give at most one of the fields {', '.join(names)}, not {' and '.join(given)}")
        check_template_values(self.messages, self.chat_template_kwargs)
        return self


class PatternScore(BaseModel):
    """The masked tokens of one pattern."""

    masked: list[int] = Field(description="positions that were masked")
    log_probabilities: list[float] = Field(description="log-probability of the token at each of them")
    sum: float = Field(description="sum of these")


class CoupledScore(BaseModel):
    """Coupled-GRPO's estimate (DiffuCoder, arXiv 2506.20639)."""

    masks: list[list[int]] = Field(description="masks that were drawn, pair by pair")
    log_probabilities: list[float] = Field(description="estimate per token of the completion")
    sum: float = Field(description="sum of these")


class LikelihoodScore(BaseModel):
    """The bound of the log-likelihood (LLaDA, arXiv 2502.09992, equation 6), in nats."""

    samples: int = Field(description="number of masks that were drawn")
    log_likelihood: float = Field(description="the estimate")
    standard_error: float | None = Field(description="standard error of the estimate; null for one sample")


class ScoreResponse(BaseModel):
    """The answer of `POST /score`. Fields that were not asked for are left out."""

    id: str = Field(description="id of the response, from `X-Request-Id` if the client sent one")
    model: str = Field(description="name of the model")
    token_ids: list[int] = Field(description="token ids of the completion")
    tokens: list[str] = Field(description="texts of these tokens")
    patterns: list[PatternScore] | None = Field(None, description="one entry per pattern, in the order of the request")
    coupled: CoupledScore | None = Field(None, description="with `coupled_pairs`")
    likelihood: LikelihoodScore | None = Field(None, description="with `likelihood_samples`")
    forward_passes: int = Field(description="canvases that were scored")
    usage: Usage = Field(description="tokens of one canvas")
