"""Log-probabilities as OpenAI's endpoints write them: of each token at the step that revealed it."""

from collections.abc import Sequence
from typing import Any

from engine.canvas import REPLACEMENT
from models.tokenizer import Tokenizer
from server.pieces import Piece, Token

JSON = dict[str, Any]


def completion_logprobs(piece: Piece, tokenizer: Tokenizer) -> JSON:
    """Four lists with an entry a token; those of an echoed prompt come first, and last the end of text that ended the
    answer. An offset counts the characters of the tokens before."""
    tokens = [*piece.echo.tokens, *piece.tokens, *piece.end]
    texts = [tokenizer.token_text(token.id) for token in tokens]
    offsets, offset = [], piece.before
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [token.log_probability for token in tokens],
        "top_logprobs": [_top(token, tokenizer) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: Token, tokenizer: Tokenizer) -> JSON | None:
    """The most probable tokens and the token itself; None where there is no prediction."""
    if token.log_probability is None:
        return None
    most = {tokenizer.token_text(id): value for id, value in token.top}
    return most | {tokenizer.token_text(token.id): token.log_probability}


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
    text = tokenizer.token_text(id)
    known = REPLACEMENT not in text  # a part of a character has bytes that its text does not tell
    return {"token": text, "logprob": value, "bytes": list(text.encode()) if known else None}
