"""Log-probabilities as OpenAI's endpoints write them: of each token at the step that revealed it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from unmask.models.tokenizer import Tokenizer
from unmask.server.reply.deltas import Delta, Token

JSON = dict[str, Any]


def completion_logprobs(delta: Delta, tokenizer: Tokenizer) -> JSON:
    """Four lists with an entry a token; those of an echoed prompt come first, and last the end of text that ended the
    answer."""
    tokens = [*delta.echo.tokens, *delta.tokens, *delta.end]
    named = [_named(token, tokenizer) for token in tokens]
    return {
        "tokens": [name for name, _ in named],
        "token_logprobs": [token.log_probability for token in tokens],
        "top_logprobs": [top for _, top in named],
        "text_offset": [token.offset for token in tokens],
    }


def _named(token: Token, tokenizer: Tokenizer) -> tuple[str, JSON | None]:
    """A token's name; and by name the most probable tokens and the token itself, or None without a prediction."""
    values = dict(token.top) | {token.id: token.log_probability}
    names = _names(values, tokenizer)
    top = {names[id]: value for id, value in values.items()}
    return names[token.id], None if token.log_probability is None else top


def _names(ids: Iterable[int], tokenizer: Tokenizer) -> dict[int, str]:
    """By id a name of each token that no other has: its text, if it can be."""
    names = {id: _name(id, tokenizer) for id in ids}
    often = Counter(names.values())
    return {id: name if often[name] == 1 else tokenizer.token_string(id) for id, name in names.items()}


def _name(id: int, tokenizer: Tokenizer) -> str:
    """The text of a token; of one that is not whole characters its bytes, written as OpenAI does."""
    data = tokenizer.token_bytes(id)
    try:
        return tokenizer.token_text(id) if data is None else data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data or b"")


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> JSON:
    """An object a token."""
    content = [
        {
            **_entry(token.id, token.log_probability, tokenizer),
            "top_logprobs": [_entry(id, value, tokenizer) for id, value in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(id: int, value: float | None, tokenizer: Tokenizer) -> JSON:
    data = tokenizer.token_bytes(id)
    return {"token": tokenizer.token_text(id), "logprob": value, "bytes": None if data is None else list(data)}
