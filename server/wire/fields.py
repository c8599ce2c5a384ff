"""The fields that the bodies of all generation endpoints share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from unmask.server.wire.faults import expect
from unmask.server.wire.structure import ResponseFormat, StructuredOutputs

MAX_COUNT = 2**31 - 1  # the engine keeps numbers as 32-bit integers
MAX_SEED = 2**63 - 1
MAX_STOPS = 16  # OpenAI accepts 4; evaluation harnesses send more
MAX_STOP_LENGTH = 256  # characters; each step searches for every prefix of each stop text
MAX_NAME = 128  # characters of names and short settings
MAX_PATH = 4096  # characters
MAX_OPTIONS = 64
MAX_BIAS = 100  # OpenAI's
MAX_BIASES = 4096
MAX_TOKENS = 1 << 20  # more than any model reads


# As clients of llama.cpp and Ollama say that they leave a number out.
UNSET = BeforeValidator(
    lambda value: None if type(value) is int and value == -1 else value,
    json_schema_input_type=Annotated[int, Field(ge=-1, le=MAX_SEED)] | None,
)

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenIds = Annotated[list[int], Field(max_length=MAX_TOKENS, fail_fast=True)]
Name = Annotated[str, Field(max_length=MAX_NAME)]
TokenName = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-MAX_BIAS, le=MAX_BIAS)]


class Body(BaseModel):
    """The body of a request. A field that is null counts as left out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class GenerationFields(Body):
    """The fields of every generation endpoint."""

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")
    max_tokens: int | None = Field(None, ge=1, le=MAX_COUNT, description="length of the generation region in tokens")
    block_length: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="tokens per block; blocks are filled from left to right; max_tokens or more makes one block",
    )
    scheduler: Annotated[
        Name | Annotated[dict[Name, Any], Field(max_length=MAX_OPTIONS)] | None,
        expect("a name, or an object with a name and options"),
    ] = Field(
        None,
        description='chooses which tokens to reveal: a name, or {"name": ..., option: value, ...}; see /v1/schedulers',
    )
    steps: int | None = Field(None, description="shorthand for the scheduler's option of that name")
    threshold: float | None = Field(
        None,
        description="shorthand for the option of that name; selects the scheduler `threshold` if none is named",
    )
    policy: str | None = Field(None, max_length=MAX_PATH, description="as `threshold`, for the option `policy`")
    speed: Annotated[
        float | Literal["auto"] | Annotated[dict[Name, Any], Field(max_length=MAX_OPTIONS)] | None,
        expect('a number, "auto", or {"auto": [low, high]}'),
    ] = Field(
        None,
        description="a number: shorthand for the scheduler's option of that name; auto: the load decides, or with "
        '{"auto": [low, high]} it decides between these shares of the way from careful to fast',
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, proposes the most probable token")
    top_p: float | None = Field(None, gt=0, le=1, description="sample among the likeliest tokens of this total")
    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description="sample among this many tokens; 0 and -1 mean all")
    min_p: float | None = Field(
        None, ge=0, le=1, description="leave out tokens less probable than this share of the most probable one"
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="subtracted from the logit of each token that stands in the generation region"
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="the same, as often as the token stands there"
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=10,
        description="divides the logit of each token that stands there or in the prompt; 1 changes nothing",
    )
    logit_bias: Annotated[dict[TokenName, Bias], Field(max_length=MAX_BIASES)] | None = Field(
        None, description="what is added to the logits of tokens, by their ids"
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed, same text; random if left out")
    stop: Annotated[
        StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)] | None,
        expect(f"a text or a list of at most {MAX_STOPS} texts, each of 1 to {MAX_STOP_LENGTH} characters"),
    ] = Field(None, description="texts that end the answer; they are not part of it")
    max_forward_passes: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="after this many passes, all remaining masks are revealed at once"
    )
    min_tokens: int | None = Field(
        None,
        ge=0,
        le=MAX_COUNT,
        description="no end of text is written among this many first tokens; at most max_tokens",
    )
    ignore_eos: bool | None = Field(
        None, description="no end of text is written: the whole generation region is filled with text"
    )
    response_format: ResponseFormat | None = Field(
        None, description="the form of the answer, whatever the model proposes; a stop text may still cut it"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="the form of the answer, as vLLM's clients send it"
    )
    cache: str | None = Field(
        None,
        max_length=MAX_NAME,
        description="keys and values kept from pass to pass: none, prefix, dual, dual:refresh=8, block, or auto",
    )
    input_state: Annotated[
        Name | Annotated[dict[Name, Any], Field(max_length=MAX_OPTIONS)] | None,
        expect("a name, or an object with a name and options"),
    ] = Field(
        None,
        description="what the model is fed in place of masks: mask, residual, soft, iter-smooth, an object "
        '{"name": ..., option: value, ...}, or auto, which is what it was trained with',
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds that the request may take, with waiting; then it ends with an error"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    return_steps: bool | None = Field(
        None,
        description="return for each token the step that revealed it and its probability then, and in `diffusion` "
        "how close the order was to left to right",
    )

    @property
    def alternatives(self) -> int | None:
        """How many of the most probable tokens to return with each log-probability; None for no log-probabilities."""
        return None

    @property
    def shorthands(self) -> dict[str, int | float | str]:
        """The scheduler options that are given as separate fields."""
        given = {name: getattr(self, name) for name in ("steps", "threshold", "policy", "speed")}
        return {name: value for name, value in given.items() if value is not None and not self._is_auto(name)}

    def _is_auto(self, name: str) -> bool:
        return name == "speed" and not isinstance(self.speed, int | float)
