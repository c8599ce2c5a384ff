"""What the bodies of all generation endpoints have in common."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

MAX_COUNT = 2**31 - 1  # what an engine's integer can hold
MAX_SEED = 2**63 - 1
MAX_STOPS = 16  # OpenAI takes 4; evaluation harnesses send more
MAX_STOP_LENGTH = 256  # characters; each step looks for every beginning of each stop text
MAX_NAME = 128  # characters of what names or sets something
MAX_PATH = 4096  # characters
MAX_OPTIONS = 64
MAX_MESSAGES = 8192
MAX_PARTS = 1024
MAX_TOKENS = 1 << 20  # more than any model reads


def expect(what: str) -> WrapValidator:
    """Answer any failure of a union with one sentence, instead of one for each of its members."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "Input should be {what}", {"what": what}) from None

    return WrapValidator(check)


def about(field: str | None, message: str) -> PydanticCustomError:
    """An error of a whole object that is about one field of it."""
    return PydanticCustomError("body", "{message}", {"message": message, "param": field})


def check_same(body: BaseModel, field: str, other: str) -> None:
    """Raise an error about a field if it and another, which means the same, are both given and differ."""
    one, two = getattr(body, field), getattr(body, other)
    if None not in (one, two) and one != two:
        raise about(field, f"fields {field!r} and {other!r} differ; give one of them")


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenIds = Annotated[list[int], Field(max_length=MAX_TOKENS, fail_fast=True)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


class Body(BaseModel):
    """A body that comes in. Null is the same as leaving a field out."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class GenerationFields(Body):
    """The fields of every generation endpoint."""

    model: str | None = Field(None, description="name of the model; may be left out, as one model is served")
    max_tokens: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="length of the generation region, which is filled with masks at first"
    )
    block_length: int | None = Field(
        None,
        ge=1,
        le=MAX_COUNT,
        description="tokens per block; blocks are filled left to right; max_tokens or more is one block",
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
        description="shorthand for the option of that name; chooses the scheduler `threshold` if none is named",
    )
    policy: str | None = Field(None, max_length=MAX_PATH, description="as `threshold`, for the option `policy`")
    speed: float | None = Field(None, description="shorthand for the scheduler's option of that name")
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default, proposes the most probable token")
    top_p: float | None = Field(None, gt=0, le=1, description="sample among the most probable tokens of this total")
    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT, description="sample among this many tokens; 0 and -1 mean all")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same seed, same text; random if left out")
    stop: Annotated[
        StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)] | None,
        expect(f"a text or a list of at most {MAX_STOPS} texts, each of 1 to {MAX_STOP_LENGTH} characters"),
    ] = Field(None, description="texts that end the generation; they are not part of it")
    max_forward_passes: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="after this many, everything left is revealed at once"
    )
    ignore_eos: bool | None = Field(None, description="fill the whole generation region, past any end of text")
    cache: str | None = Field(
        None,
        max_length=MAX_NAME,
        description="keys and values kept from pass to pass: none, prefix, dual, dual:refresh=8, block, or auto",
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds that the request may take, waiting included; then it ends with an error"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    return_steps: bool | None = Field(
        None,
        description="give for each token the step that revealed it and its probability then, and in `diffusion` how "
        "close the order was to left to right",
    )

    @property
    def alternatives(self) -> int | None:
        """How many of the most probable tokens stand beside each token's log-probability; None for neither."""
        return None

    @property
    def shorthands(self) -> dict[str, int | float | str]:
        """The scheduler options that were given as fields of their own."""
        given = {name: getattr(self, name) for name in ("steps", "threshold", "policy", "speed")}
        return {name: value for name, value in given.items() if value is not None}


class TextPart(BaseModel):
    """A part of a message; there are only texts. Names that nobody knows are ignored: clients send their own."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["text"] = Field(description="only texts are taken")
    text: str = Field(description="what it says")


Parts = Annotated[list[TextPart], Field(max_length=MAX_PARTS, fail_fast=True)]
PARTS = 'a text, or a list of parts {"type": "text", "text": ...}'


class Message(BaseModel):
    """One turn of a conversation. What is null or an empty list in it says nothing and may be there."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="developer, OpenAI's newer word, is system to the chat template"
    )
    content: Annotated[str | Parts | None, expect(PARTS)] = Field(
        description="what is said; parts are joined by line breaks. Null is an answer without words"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, message: Any) -> Any:
        """Clients send answers back as they came, with all the fields that OpenAI's might have."""
        if not isinstance(message, dict):
            return message
        return {name: value for name, value in message.items() if name in cls.model_fields or value not in (None, [])}

    @model_validator(mode="after")
    def _something(self) -> "Message":
        if self.content is None and self.role != "assistant":
            raise about("content", f"field 'content' of a message must be {PARTS}, not None")
        return self

    @property
    def text(self) -> str:
        if self.content is None:
            return ""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)

    def for_template(self) -> dict[str, str]:
        """As chat templates expect it."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.text}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
