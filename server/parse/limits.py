"""Checks of texts and tokens, before any work is done with them."""

from collections.abc import Sequence

from unmask.models.loading import Model
from unmask.server.errors import BadRequestError, show

CHARACTERS_PER_TOKEN = 64  # a text with more cannot fit, and encoding it would take long
MAX_SCORED_TOKENS = 1 << 20  # a text of 1024 tokens, each seen from those before it
CONTEXT_LENGTH = "context_length_exceeded"


def too_long(what: str, field: str, model: Model) -> BadRequestError:
    """The error for what does not fit. It begins with OpenAI's words, by which clients know this fault."""
    message = f"This model's maximum context length is {model.max_positions} tokens; {what}"
    return BadRequestError(message, field, CONTEXT_LENGTH)


def check_characters(characters: int, field: str, model: Model) -> None:
    """Raise BadRequestError for a text that cannot fit."""
    if characters > (most := CHARACTERS_PER_TOKEN * model.max_positions):
        raise too_long(
            f"field {field!r} has {characters} characters, more than the {most} that could fit; shorten it",
            field,
            model,
        )


def check_count(tokens: int, field: str, model: Model) -> None:
    """Raise BadRequestError for more tokens than the model has positions."""
    if tokens > model.max_positions:
        raise too_long(f"field {field!r} holds {tokens}; send fewer", field, model)


def check_tokens(ids: Sequence[int], field: str, model: Model) -> None:
    """Raise BadRequestError unless each is a token of the model."""
    if (wrong := next((id for id in ids if not 0 <= id < model.vocab_size), None)) is not None:
        raise BadRequestError(
            f"field {field!r} holds the token id {show(wrong)}; give ids from 0 to {model.vocab_size - 1}", field
        )


def check_scored(tokens: int, field: str) -> None:
    """Raise BadRequestError if the passes of one request would compute too many tokens."""
    if tokens > MAX_SCORED_TOKENS:
        raise BadRequestError(
            f"field {field!r} asks for passes over {tokens} tokens in total, more than {MAX_SCORED_TOKENS}; send "
            "shorter texts, or fewer at once",
            field,
        )
