"""Names that other servers know and this one does not: taken where they ask for nothing, and refused otherwise.

Silence would be a lie: whoever sends them expects another answer. Names that change no answer are ignored.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from unmask.errors import closest
from unmask.server.errors import show
from unmask.server.wire.faults import about
from unmask.server.wire.fields import MAX_NAME, MAX_OPTIONS
from unmask.server.wire.messages import OLD_TOOLS, TEXT_ONLY

NEAR = 0.85  # similarity from which an unknown name counts as a field that was mistyped
LEAST_LETTERS = 4  # of a mistyped name
_FREE = "the form of an answer is asked for by 'response_format' or 'structured_outputs'"
_SAMPLING = "this server samples by 'top_p', 'top_k' and 'min_p'"
_LEAVE = "leave it out"
NO_TOOLS = "this endpoint calls no tools"

Refusal = tuple[tuple[object, ...], str, str]
# name -> (values, beside null, that ask for nothing; why it is refused; what to do)
# The first that is sent is reported first: who leaves out `tool_choice` alone would meet `tools` next.
UNSUPPORTED: dict[str, Refusal] = {
    "tools": (([],), NO_TOOLS, "use /v1/chat/completions"),
    "functions": (([],), OLD_TOOLS, "send 'tools'"),
    "tool_choice": (("none", "auto"), NO_TOOLS, "use /v1/chat/completions"),
    "function_call": (("none", "auto"), OLD_TOOLS, "send 'tool_choice'"),
    "parallel_tool_calls": ((True, False), NO_TOOLS, _LEAVE),
    "extra_body": (({},), "only the openai package takes it apart", "send the fields in it beside the others"),
    **dict.fromkeys(("guided_choice", "guided_grammar", "guided_json", "guided_regex"), ((), _FREE, _LEAVE)),
    **dict.fromkeys(("ebnf", "format", "grammar", "regex"), (("",), _FREE, _LEAVE)),
    "json_schema": (({},), _FREE, _LEAVE),
    "allowed_token_ids": ((), _FREE, _LEAVE),
    "bad_words": (([],), _FREE, _LEAVE),
    "repeat_penalty": ((1,), "the penalty is 'repetition_penalty'", "send that instead"),
    "length_penalty": ((1,), "this server has no beams", _LEAVE),
    "typical_p": ((1,), _SAMPLING, _LEAVE),
    "mirostat": ((0,), _SAMPLING, _LEAVE),
    "do_sample": ((), "whether tokens are drawn follows from 'temperature'", "send 0 for the most probable token"),
    "use_beam_search": ((False,), "this server has no beams", _LEAVE),
    "best_of": ((1,), "this server does not rank choices", "send the value of 'n', or leave it out"),
    "max_new_tokens": ((), "the length is 'max_tokens'", "send that instead"),
    "n_predict": ((), "the length is 'max_tokens'", "send that instead"),
    "options": (({},), "fields stand in the body itself", "send them there"),
    "audio": ((), TEXT_ONLY, _LEAVE),
    "modalities": ((["text"],), TEXT_ONLY, _LEAVE),
    "messages": ((), "this endpoint writes on from a 'prompt'", "send that, or use /v1/chat/completions"),
    "prompt": ((), "this endpoint answers 'messages'", "send those, or use /v1/completions"),
    "suffix": (("",), "this endpoint does not fill in", "use /v1/fim/completions"),
    "canvas": ((), "this endpoint does not fill in", "use /generate"),
    "prediction": ((), "this endpoint does not start from a prediction", "use /v1/chat/completions, or /generate"),
    "echo": ((False,), "this endpoint does not repeat the prompt", _LEAVE),
    "logprobs": ((False,), "this endpoint gives no log-probabilities", "use /v1/completions"),
    "top_logprobs": ((0,), "this endpoint counts them in 'logprobs'", _LEAVE),
    "prompt_logprobs": ((), "this server gives those of a prompt by 'echo'", "use /v1/completions, or /score"),
    "add_generation_prompt": ((True,), "an answer always begins a turn", _LEAVE),
    "continue_final_message": ((False,), "an answer always begins a turn", _LEAVE),
    "chat_template": ((), "the server has the template", "start it with --chat-template FILE"),
    "chat_template_kwargs": (({},), "no template is applied to a 'prompt'", _LEAVE),
    "documents": (([],), "this server looks nothing up", _LEAVE),
    "web_search_options": ((), "this server looks nothing up", _LEAVE),
    "stop_token_ids": (([],), "answers end at the model's own", "send texts in 'stop'"),
    "include_stop_str_in_output": ((False,), "what ends an answer is no part of it", _LEAVE),
    "add_special_tokens": ((False,), "a raw prompt is taken as it is", "write the tokens into it"),
    "skip_special_tokens": ((True,), "texts hold no special tokens", "send 'return_token_ids': true"),
    "spaces_between_special_tokens": ((True,), "texts hold no special tokens", _LEAVE),
    "return_tokens_as_token_ids": ((False,), "tokens are given as texts", "send 'return_token_ids': true"),
    "truncate_prompt_tokens": ((), "this server does not shorten prompts", "send a shorter one"),
    "priority": ((0,), "clients take turns", _LEAVE),
}


def check_unsupported(
    others: Mapping[str, Any], n: int, fields: Iterable[str], refused: Mapping[str, Refusal] = UNSUPPORTED
) -> None:
    """Raise an error for one of the unknown names of a body that changes what is asked for.

    n       choices per prompt: `best_of` may be as many
    fields  the known names: one that was mistyped is refused as well
    refused the names that are refused at some values
    """
    for name, (neutral, why, remedy) in refused.items():
        value = others.get(name)
        if value is None or any(_same(value, asks_nothing) for asks_nothing in neutral) or _is_off(name, others, n):
            continue
        # Where some value is taken, another may be: that is OpenAI's distinction, too.
        scalar = any(isinstance(one, str | int | float) and one != "" for one in neutral)
        what = f" with the value {show(value)}" if scalar else ""
        code = "unsupported_value" if scalar else "unsupported_parameter"
        raise about(name, f"field {name!r} is not supported{what}: {why}; {remedy}", code)
    known = [name for name in fields if len(name) >= LEAST_LETTERS]
    for name in [name for name in others if name not in refused][:MAX_OPTIONS]:
        if LEAST_LETTERS <= len(name) <= MAX_NAME and (near := closest(name, known, NEAR)) is not None:
            raise about(name, f"field {show(name)} is unknown; did you mean {near!r}?", "unknown_parameter")


def _is_off(name: str, others: Mapping[str, Any], n: int) -> bool:
    """Whether another field makes that one ask for nothing."""
    if name == "best_of":
        return _same(others[name], n)
    off = {"tools": "tool_choice", "functions": "function_call"}.get(name)
    return off is not None and others.get(off) == "none"


def _same(value: Any, other: object) -> bool:
    """Equality for which true is not 1."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)
