"""Log-probabilities as OpenAI's endpoints write them. Each is that of a token at the step that revealed it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from unmask.models.tokenizer import Tokenizer
from unmask.server.reply.deltas import Delta, Token

JSON = dict[str, Any]


def completion_logprobs(delta: Delta, tokenizer: Tokenizer) -> JSON:
    """Four lists with one entry per token: an echoed prompt, the answer, and the end of text that ended it."""
    tokens = [*delta.echo.tokens, *delta.tokens, *delta.end]
    named = [_named(token, tokenizer) for token in tokens]
    return {
        "tokens": [name for name, _ in named],
        "token_logprobs": [token.log_probability for token in tokens],
        "top_logprobs": [top for _, top in named],
        "text_offset": [token.offset for token in tokens],
    }


def _named(token: Token, tokenizer: Tokenizer) -> tuple[str, JSON | None]:
    """The token's name, and by name the log-probabilities of the most probable tokens and of the token itself.

    None instead, if nothing predicted the token.
    """
    values = dict(token.top) | {token.id: token.log_probability}
    names = _names(values, tokenizer)
    top = {names[id]: value for id, value in values.items()}
    return names[token.id], None if token.log_probability is None else top


def _names(ids: Iterable[int], tokenizer: Tokenizer) -> dict[int, str]:
    """A unique name for each token id: its text, if no other token has that."""
    names = {id: _name(id, tokenizer) for id in ids}
    often = Counter(names.values())
    return {id: name if often[name] == 1 else tokenizer.token_string(id) for id, name in names.items()}


def _name(id: int, tokenizer: Tokenizer) -> str:
    """The text of a token; its bytes, written as OpenAI does, if it is not whole characters."""
    data = tokenizer.token_bytes(id)
    try:
        return tokenizer.token_text(id) if data is None else data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data or b"")


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer) -> JSON:
    """One object per token."""
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
