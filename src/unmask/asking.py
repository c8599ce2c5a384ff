"""From what a caller of `LLM` asks for to requests that the engine can run."""

import operator
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from reprlib import repr as show
from typing import Any, SupportsIndex, TypedDict

from unmask import defaults
from unmask.engine.adjustment import Adjustment, adjustment_of
from unmask.engine.caching import choose_cache
from unmask.engine.errors import RequestError
from unmask.engine.fields import choose_block_length, choose_temperature, name_and_options
from unmask.engine.growth import growing
from unmask.engine.input_state import choose_input_state
from unmask.engine.pace import bounds_of, choose_pace
from unmask.engine.request import Request
from unmask.engine.structure import Structure, choice, json_object, json_of, matching
from unmask.models.loading import Model
from unmask.schedulers import Needs, Scheduler, SchedulerSpec, parse_instance, parse_scheduler

Message = Mapping[str, str]
Prompt = str | Sequence[int]
Conversation = Sequence[Message]

SEEDS = 2**63
SHORTHANDS = ("steps", "threshold", "policy", "speed")


class Fields(TypedDict, total=False):
    """What a generation may be asked for. Names, meanings and defaults are those of the HTTP fields; None is the same
    as leaving a field out.

    max_tokens          length of the generation region in tokens; 256, for block-causal models 2048, or an eighth of
                        the model's positions if that is less, at least 64; and at most what there is room for
    block_length        tokens per block, which are filled left to right; 32. max_tokens or more is one block
    scheduler           chooses which tokens to reveal: a name, or a mapping with `name` and options; "topk". In place
                        of the name may stand a scheduler itself, an object with `needs` and `decide`
    steps, threshold, policy, speed   shorthands for the scheduler's options of these names; without `scheduler`,
                        `threshold` and `policy` choose the schedulers of these names. With the speed "auto", or
                        {"auto": [low, high]}, the answers that wait set the speed of any scheduler that has one
    temperature         0 proposes the most probable token, above 0 samples; 0
    top_p, top_k, min_p sample among the most probable tokens only; 1.0, 0 and 0.0, which mean all
    presence_penalty, frequency_penalty   subtracted from the logit of each token that stands in the generation region,
                        once or as often as it does; 0.0
    repetition_penalty  divides the logit of each token that stands there or in the prompt; 1.0
    logit_bias          what is added to the logits of tokens, by their ids; nothing
    seed                same seed, same text; random if left out
    stop                a text, or several, that end the generation; they are not part of it
    n                   answers per prompt, with seeds that count up; 1
    max_forward_passes  at this number, everything left is revealed at once; four per mask
    cache               keys and values kept from pass to pass: none, prefix, dual, dual:refresh=8, block; "auto"
    input_state         what the model is fed in place of masks: mask, residual, soft, iter-smooth, or a mapping with
                        `name` and options; "auto", which is what the model was trained with
    min_tokens          no end of text is written among this many first tokens; 0
    ignore_eos          no end of text is written at all; False
    suffix              text or token ids after the generation region
    prediction          text or token ids that the answers are expected to begin with: what the model would write itself
                        is kept and costs hardly a pass, the rest is decoded as ever; nothing
    adapter             the name of one of several adapters that the LLM was made with; none
    structured_outputs  the form of the answer, whatever the model proposes: a mapping with one of `json` (a schema),
                        `json_object` (True), `regex` and `choice` (a list of texts)
    """

    max_tokens: int | None
    block_length: int | None
    scheduler: str | Mapping[str, Any] | Scheduler | None
    steps: int | None
    threshold: float | None
    policy: str | None
    speed: float | str | Mapping[str, Sequence[float]] | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    n: int | None
    max_forward_passes: int | None
    cache: str | None
    input_state: str | Mapping[str, Any] | None
    min_tokens: int | None
    ignore_eos: bool | None
    suffix: Prompt | None
    prediction: Prompt | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    structured_outputs: Mapping[str, Any] | None
    adapter: str | None


# Numbers that a field may hold: their type, which are allowed, and the same in words.
NUMBERS: dict[str, tuple[type[int] | type[float], Callable[[float], bool], str]] = {
    "max_tokens": (int, lambda n: n >= 1, "an integer of at least 1"),
    "block_length": (int, lambda n: n >= 1, "an integer of at least 1"),
    "min_tokens": (int, lambda n: n >= 0, "an integer of at least 0"),
    "temperature": (float, lambda t: 0 <= t <= 2, "a number from 0 to 2"),
    "top_p": (float, lambda p: 0 < p <= 1, "a number above 0 and at most 1"),
    "top_k": (int, lambda k: k >= -1, "an integer of at least 0, or -1 for all tokens"),
    "min_p": (float, lambda p: 0 <= p <= 1, "a number from 0 to 1"),
    "presence_penalty": (float, lambda p: -2 <= p <= 2, "a number from -2 to 2"),
    "frequency_penalty": (float, lambda p: -2 <= p <= 2, "a number from -2 to 2"),
    "repetition_penalty": (float, lambda p: 0 < p <= 10, "a number above 0 and at most 10"),
    "seed": (int, lambda s: 0 <= s < SEEDS, "an integer from 0 to 2**63 - 1"),
    "n": (int, lambda n: n >= 1, "an integer of at least 1"),
    "max_forward_passes": (int, lambda n: n >= 1, "an integer of at least 1"),
    "max_rows": (int, lambda n: n >= 1, "an integer of at least 1"),
    "tensor_parallel": (int, lambda n: n >= 1, "an integer of at least 1"),
    "memory_fraction": (float, lambda f: 0 < f < 1, "a number between 0 and 1"),
    "coupled_pairs": (int, lambda n: n >= 0, "an integer of at least 0"),
    "likelihood_samples": (int, lambda n: n >= 0, "an integer of at least 0"),
}


def check_number(field: str, value: Any) -> None:
    """Raise RequestError unless a field may hold the value."""
    kind, allowed, words = NUMBERS[field]
    wrong = isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int)
    if wrong or not isinstance(value, int | float) or not allowed(value):
        raise RequestError(f"{field} must be {words}, not {show(value)}", field)


def as_requests(prompts: Sequence[tuple[int, ...]], fields: Fields, model: Model) -> list[Request]:
    """The requests for some prompts of at least one token: the n of the first, then the n of the next.

    Ids count from "0". Raises RequestError, or what `parse_scheduler` raises.
    """
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    if unknown := given.keys() - Fields.__annotations__.keys():
        raise TypeError(f"unknown field {min(unknown)!r}; the fields are: {', '.join(Fields.__annotations__)}")
    for name in given.keys() & NUMBERS.keys():
        check_number(name, given[name])
    n, requests, plains = given.get("n", 1), list[Request](), dict[int, Request]()
    for i, prompt in enumerate(prompts):
        length = _length(given, prompt, model)
        plain = plains[length] if length in plains else plains.setdefault(length, _plain(given, length, model))
        _check_length(len(prompt) + plain.length, i, plain, model)
        first = given.get("seed", secrets.randbelow(2**31))
        seeds = [(first + choice) % SEEDS for choice in range(n)]
        own = growing(replace(plain, prompt=prompt), model)
        requests += [replace(own, id=str(i * n + j), seed=seed) for j, seed in enumerate(seeds)]
    return requests


def _length(given: Mapping[str, Any], prompt: Sequence[int], model: Model) -> int:
    """How many tokens to generate after a prompt: if that is not given, no more than there is room for."""
    if "max_tokens" in given:
        length: int = given["max_tokens"]
        return length
    suffix = token_ids(given["suffix"], "suffix", model) if "suffix" in given else ()
    usual = max(model.usual_length, given.get("min_tokens", 0))
    return max(min(usual, model.max_positions - len(prompt) - len(suffix)), 1)


def _plain(given: Mapping[str, Any], max_tokens: int, model: Model) -> Request:
    """A request with all but id, prompt and seed."""
    a, least = model.network.architecture, given.get("min_tokens", 0)
    usual: Mapping[str, Any] = {} if model.preset is None else model.preset.defaults
    if least > max_tokens:
        raise RequestError(f"min_tokens {least} is more than the max_tokens {max_tokens}; ask for less", "min_tokens")
    return Request(
        id="",
        prompt=(),
        max_tokens=max_tokens,
        block_length=choose_block_length(
            given.get("block_length"), usual.get("block_length", defaults.BLOCK_LENGTH), max_tokens, a
        ),
        scheduler=(scheduler := _scheduler(given, usual.get("scheduler", defaults.SCHEDULER))),
        pace=choose_pace(given.get("speed"), scheduler),
        temperature=choose_temperature(given.get("temperature", 0.0)),
        top_p=given.get("top_p", 1.0),
        top_k=max(given.get("top_k", 0), 0),
        stop=_stop(given.get("stop", ())),
        max_forward_passes=given.get("max_forward_passes"),
        cache=choose_cache(given.get("cache", usual.get("cache", defaults.CACHE)), a),
        input_state=choose_input_state(given.get("input_state", defaults.INPUT_STATE), model),
        min_tokens=least,
        ignore_eos=given.get("ignore_eos", False),
        suffix=_suffix(given["suffix"], model) if "suffix" in given else (),
        draft=token_ids(given["prediction"], "prediction", model) if "prediction" in given else (),
        adapter=_adapter(given["adapter"], model) if "adapter" in given else None,
        adjustment=_adjustment(given, model),
        structure=_structure(given["structured_outputs"]) if "structured_outputs" in given else None,
    )


def _adapter(name: Any, model: Model) -> int:
    """The place of an adapter among the model's. Raises RequestError."""
    if name not in model.adapters:
        raise RequestError(f"adapter {show(name)} is not there; the adapters are: {_listed(model.adapters)}", "adapter")
    return model.adapters.index(name)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none, as one alone is merged"


def _adjustment(given: Mapping[str, Any], model: Model) -> Adjustment | None:
    bias: Any = given.get("logit_bias", {})
    wrong = not isinstance(bias, Mapping) or not all(
        type(token) is int and isinstance(value, int | float) and -100 <= value <= 100 for token, value in bias.items()
    )
    if wrong:
        raise RequestError(
            f"logit_bias must be a mapping of token ids to numbers from -100 to 100, not {show(bias)}", "logit_bias"
        )
    presence, frequency, repetition = (given.get(f"{name}_penalty") for name in ("presence", "frequency", "repetition"))
    return adjustment_of(bias, presence, frequency, repetition, given.get("min_p"), model.vocab_size)


def _structure(asked: Any) -> Structure:
    """The form that a mapping asks for. Raises RequestError."""
    kind, value = next(iter(asked.items())) if isinstance(asked, Mapping) and len(asked) == 1 else (None, None)
    field = "structured_outputs"
    if kind == "json":
        return json_of(value, field)
    if kind == "json_object" and value is True:
        return json_object(field)
    if kind == "regex" and isinstance(value, str):
        return matching(value, field)
    if kind == "choice" and isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return choice(value, field)
    raise RequestError(
        "structured_outputs must be a mapping with one of 'json' (a schema), 'json_object' (True), 'regex' (a text) "
        f"and 'choice' (a list of texts), not {show(asked)}",
        field,
    )


def _scheduler(given: Mapping[str, Any], usual: str) -> SchedulerSpec:
    fixed = given if bounds_of(given.get("speed")) is None else {**given, "speed": None}
    shorthands = {name: fixed[name] for name in SHORTHANDS if fixed.get(name) is not None}
    scheduler, options = name_and_options(given.get("scheduler"), shorthands, usual)
    if isinstance(scheduler, str):
        return parse_scheduler(scheduler, options)
    instance: Any = scheduler
    if isinstance(scheduler, type) or not hasattr(scheduler, "decide"):
        raise RequestError(
            "scheduler must be a name, a mapping with 'name' and options, or an object with 'needs' and 'decide', not "
            f"{show(scheduler)}",
            "scheduler",
        )
    if not isinstance(getattr(scheduler, "needs", None), Needs):
        name = type(scheduler).__name__
        raise RequestError(f"scheduler {name!r} does not say what it needs; give it needs = Needs(...)", "scheduler")
    return parse_instance(instance, options)


def _stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    if wrong := [one for one in stops if not isinstance(one, str) or not one]:
        raise RequestError(f"stop must be a text or several, none of them empty, not {show(wrong[0])}", "stop")
    return stops


def _suffix(suffix: Prompt, model: Model) -> tuple[int, ...]:
    ids = token_ids(suffix, "suffix", model)
    if ids and model.network.architecture.block_size is not None:
        raise RequestError(
            "suffix would change nothing: this model writes one block after another and does not see what follows; "
            "leave it out",
            "suffix",
        )
    return ids


def _check_length(length: int, i: int, request: Request, model: Model) -> None:
    if length > model.max_positions:
        raise RequestError(
            f"prompts[{i}], suffix and max_tokens of {request.max_tokens} make {length} tokens, more than the "
            f"{model.max_positions} positions of the model; shorten one of them",
            "max_tokens",
        )


def check_scored(prompt: Sequence[int], completion: Sequence[int], i: int, model: Model) -> None:
    """Raise RequestError unless the completion holds tokens, no mask, and fits after its prompt."""
    if not completion or model.mask_id in completion:
        wrong = "holds a mask" if completion else "holds no tokens"
        raise RequestError(f"completions[{i}] {wrong}; give the tokens to score", "completions")
    if (length := len(prompt) + len(completion)) > model.max_positions:
        raise RequestError(
            f"prompts[{i}] and completions[{i}] make {length} tokens, more than the {model.max_positions} positions of "
            "the model; shorten one of them",
            "completions",
        )


def token_ids(prompt: Prompt | Conversation, field: str, model: Model) -> tuple[int, ...]:
    """The token ids of a text, of ids, or of a conversation up to where the answer begins.

    Raises RequestError about the field, or ChatTemplateError.
    """
    if isinstance(prompt, str):
        return tuple(model.tokenizer.encode(prompt))
    if is_conversation(prompt):
        return tuple(model.tokenizer.chat([_message(message, field) for message in prompt]))
    try:
        ids = tuple(operator.index(token) for token in prompt)  # type: ignore[arg-type]
    except TypeError:
        raise RequestError(f"{field} must be a text or token ids, not {show(prompt)}", field) from None
    if wrong := [token for token in ids if not 0 <= token < model.vocab_size]:
        raise RequestError(f"{field} holds the token id {wrong[0]}; give ids from 0 to {model.vocab_size - 1}", field)
    return ids


def is_conversation(prompt: object) -> bool:
    """Whether it is a list of messages."""
    return isinstance(prompt, Sequence) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def is_one(prompts: object) -> bool:
    """Whether it is one prompt, and not a list of them: a text, token ids, or a list of messages."""
    if isinstance(prompts, str) or is_conversation(prompts):
        return True
    return isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], SupportsIndex)


def _message(message: object, field: str) -> dict[str, str]:
    texts = dict(message) if isinstance(message, Mapping) else {}
    if set(texts) != {"role", "content"} or not all(isinstance(text, str) for text in texts.values()):
        raise RequestError(
            f"{field} must hold messages with the texts 'role' and 'content', not {show(message)}", field
        )
    return texts
