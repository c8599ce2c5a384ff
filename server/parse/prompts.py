"""From texts and conversations to token ids, checked before and after."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unmask.models.loading import Model
from unmask.server.errors import BadRequestError
from unmask.server.parse.limits import check_characters, check_tokens
from unmask.server.tools import hermes
from unmask.server.wire.generate import GenerateRequest
from unmask.server.wire.messages import Message
from unmask.server.wire.score import ScoreRequest
from unmask.server.wire.tokenize import TokenizeRequest


def encoded(text: str, field: str, model: Model) -> list[int]:
    """The tokens of a text. Raises BadRequestError for one that cannot fit."""
    check_characters(len(text), field, model)
    return model.tokenizer.encode(text)


def conversation(
    messages: Sequence[Message],
    values: Mapping[str, Any] | None,
    model: Model,
    tools: Sequence[dict[str, Any]] = (),
    field: str = "messages",
) -> list[int]:
    """The token ids of a conversation, up to where the answer begins; `values` are for the template.

    field  that holds the messages
    tools  that the answer may call; a template that knows none gets them, and earlier calls, as texts

    Raises BadRequestError or ChatTemplateError.
    """
    said = [message.for_template() for message in messages]
    check_characters(sum(map(_characters, said)), field, model)
    check_characters(len(json.dumps(values)), "chat_template_kwargs", model)
    check_characters(len(json.dumps(tools)), "tools", model)
    if model.tokenizer.has_chat_template and not model.tokenizer.knows_tools:
        said, tools = hermes.as_texts(said, tools), ()
    return model.tokenizer.chat(said, values or {}, tools)


def _characters(message: Mapping[str, Any]) -> int:
    calls = message.get("tool_calls")
    return len(message["content"]) + len(message.get("name", "")) + (len(json.dumps(calls)) if calls else 0)


def given_prompt(body: GenerateRequest | ScoreRequest, model: Model) -> tuple[str, Sequence[int]]:
    """(field, token ids) of the prompt, in whichever form a body gives it; no ids if it gives none."""
    if body.prompt is not None:
        return "prompt", encoded(body.prompt, "prompt", model)
    if body.messages is not None:
        return "messages", conversation(body.messages, body.chat_template_kwargs, model)
    check_tokens(body.input_ids or (), "input_ids", model)
    return "input_ids", body.input_ids or ()


def split_prompts(prompt: str | Sequence[object]) -> Sequence[object]:
    """The prompts of a completion as they came, each a text or token ids, of which one may stand without a list."""
    one = isinstance(prompt, str) or not prompt or isinstance(prompt[0], int)
    return [prompt] if one else prompt


def prompt_ids(prompt: object, model: Model) -> tuple[int, ...]:
    """The token ids of one prompt of a completion. Raises BadRequestError."""
    if isinstance(prompt, str):
        return checked(encoded(prompt, "prompt", model), "prompt", model)
    assert isinstance(prompt, Sequence)
    return checked(prompt, "prompt", model)


def checked(ids: Sequence[int], field: str, model: Model) -> tuple[int, ...]:
    """Token ids as a prompt: at least one, each a token of the model. Raises BadRequestError."""
    if not ids:
        raise BadRequestError(f"field {field!r} holds no tokens; give at least one", field)
    check_tokens(ids, field, model)
    return tuple(ids)


def tokens_of(body: TokenizeRequest, model: Model) -> list[int]:
    """The tokens of a body of `POST /tokenize`. Raises BadRequestError or ChatTemplateError."""
    if body.messages is not None:
        return conversation(body.messages, body.chat_template_kwargs, model)
    text = body.prompt or ""
    check_characters(len(text), "prompt", model)
    return model.tokenizer.encode(text, add_special_tokens=bool(body.add_special_tokens))
