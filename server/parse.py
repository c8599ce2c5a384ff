"""From what came over the wire to requests that the engine can run without looking twice. Here and nowhere else."""

import secrets
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from engine.caching import choose_cache
from engine.request import Request, fit_block_length
from models.architecture import Architecture
from models.loading import Model
from schedulers import OptionError, SchedulerSpec, UnknownSchedulerError, parse_scheduler, scheduler_names
from server.errors import BadRequestError, show
from server.policy_names import check_policy
from server.settings import ServeSettings
from server.wire import MAX_SEED, CompletionRequest, GenerateRequest, GenerationFields

COMPLETION_MAX_TOKENS = 16  # OpenAI's default
CHARACTERS_PER_TOKEN = 64  # a text with more cannot fit, and is not worth the time that encoding it takes
LOWEST_TEMPERATURE = 1e-6  # below, logits divided by it overflow float32; that is greedy already


def parse_generate(body: GenerateRequest, model: Model, settings: ServeSettings) -> Request:
    """The engine's request for a body of `POST /generate`; raises what `server.errors` maps to 400."""
    if body.prompt is not None:
        field, prompt = "prompt", _encoded(body.prompt, model)
    elif body.messages is not None:
        _check_length(sum(len(message.content) for message in body.messages), "messages", model)
        field, prompt = "messages", model.tokenizer.chat([message.model_dump() for message in body.messages])
    else:
        field, prompt = "input_ids", body.input_ids or []
    return _request(body, _checked(prompt, field, model), settings.default_max_tokens, _seed(body), model, settings)


def parse_completion(body: CompletionRequest, model: Model, settings: ServeSettings) -> list[Request]:
    """The engine's requests for a body of `POST /v1/completions`: the choices of the first prompt, then the next one's.

    Raises what `server.errors` maps to 400.
    """
    prompts = [_checked(prompt, "prompt", model) for prompt in _prompts(body.prompt, model)]
    n = body.n or 1
    if (choices := len(prompts) * n) > settings.max_waiting:
        raise BadRequestError(
            f"field 'prompt' asks for {choices} choices and at most {settings.max_waiting} may wait; send fewer",
            "prompt",
        )
    seeds = [(_seed(body) + i) % (MAX_SEED + 1) for i in range(n)]
    return [
        _request(body, prompt, COMPLETION_MAX_TOKENS, seed, model, settings) for prompt in prompts for seed in seeds
    ]


def _request(
    body: GenerationFields,
    prompt: tuple[int, ...],
    default_tokens: int,
    seed: int,
    model: Model,
    settings: ServeSettings,
) -> Request:
    max_tokens = body.max_tokens or default_tokens
    if (length := len(prompt) + max_tokens) > model.max_positions:
        raise BadRequestError(
            f"the prompt of {len(prompt)} tokens and 'max_tokens' of {max_tokens} make {length}, more than the "
            f"{model.max_positions} positions of the model; shorten one of them",
            "max_tokens",
            "context_length_exceeded",
        )
    temperature = body.temperature or 0.0
    architecture = model.network.architecture
    return Request(
        id=uuid.uuid4().hex,
        prompt=prompt,
        max_tokens=max_tokens,
        block_length=_block_length(body, max_tokens, settings, architecture),
        scheduler=_scheduler(body, settings),
        temperature=temperature if temperature >= LOWEST_TEMPERATURE else 0.0,
        top_p=body.top_p or 1.0,
        top_k=max(body.top_k or 0, 0),
        seed=seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        max_forward_passes=body.max_forward_passes,
        cache=choose_cache(body.cache or settings.cache, architecture),
        timeout=min((t for t in (body.timeout, settings.request_timeout) if t is not None), default=None),
    )


def _block_length(body: GenerationFields, max_tokens: int, settings: ServeSettings, a: Architecture) -> int:
    """What the request asks for, but that a block cannot be longer than the generation; else the default that fits."""
    if body.block_length is None:
        return fit_block_length(settings.default_block_length, max_tokens, a)
    return body.block_length if a.block_size is not None else min(body.block_length, max_tokens)


def _scheduler(body: GenerationFields, settings: ServeSettings) -> SchedulerSpec:
    """The scheduler that a request names, with the options from the object and from the shorthands."""
    name, options = _named(body.scheduler)
    shorthands = body.shorthands
    if name is None:  # a shorthand with the name of a scheduler chooses that scheduler
        name = next((name for name in shorthands if name in scheduler_names()), settings.default_scheduler)
    if twice := shorthands.keys() & options.keys():
        raise BadRequestError(f"option {min(twice)!r} is given twice; give it in 'scheduler' or on its own", min(twice))
    check_policy(options.get("policy", body.policy), settings)
    try:
        return parse_scheduler(name, {**options, **shorthands})
    except UnknownSchedulerError as error:
        raise BadRequestError(str(error), "scheduler", "unknown_scheduler") from None
    except OptionError as error:
        param = error.option if error.option in shorthands else "scheduler"
        raise BadRequestError(f"scheduler {name!r}: {error}", param, "invalid_option") from None


def _named(scheduler: str | Mapping[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """(name, options) of the field `scheduler`; no name if it is left out."""
    if scheduler is None or isinstance(scheduler, str):
        return scheduler, {}
    name = scheduler.get("name")
    if not isinstance(name, str):
        raise BadRequestError(f"field 'scheduler.name' must be the name of a scheduler, not {show(name)}", "scheduler")
    return name, {option: value for option, value in scheduler.items() if option != "name"}


def _prompts(prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], model: Model) -> list[list[int]]:
    """The token ids of one or more prompts."""
    if isinstance(prompt, str):
        return [_encoded(prompt, model)]
    if not prompt or isinstance(prompt[0], int):
        return [[id for id in prompt if isinstance(id, int)]]
    return [_encoded(one, model) if isinstance(one, str) else list(one) for one in prompt if not isinstance(one, int)]


def _encoded(text: str, model: Model) -> list[int]:
    _check_length(len(text), "prompt", model)
    return model.tokenizer.encode(text)


def _check_length(characters: int, field: str, model: Model) -> None:
    """Raise BadRequestError for a text that cannot fit, before anything is done with it."""
    if characters > (most := CHARACTERS_PER_TOKEN * model.max_positions):
        raise BadRequestError(
            f"field {field!r} has {characters} characters, more than the {most} that could fit into the "
            f"{model.max_positions} positions of the model; shorten it",
            field,
            "context_length_exceeded",
        )


def _checked(ids: Sequence[int], field: str, model: Model) -> tuple[int, ...]:
    """Token ids as a prompt: at least one, each a token of the model."""
    if not ids:
        raise BadRequestError(f"field {field!r} holds no tokens; give at least one", field)
    if (wrong := next((id for id in ids if not 0 <= id < model.vocab_size), None)) is not None:
        raise BadRequestError(
            f"field {field!r} holds the token id {show(wrong)}; give ids from 0 to {model.vocab_size - 1}", field
        )
    return tuple(ids)


def _seed(body: GenerationFields) -> int:
    return secrets.randbelow(2**31) if body.seed is None else body.seed
