"""From what came over the wire to requests that the engine can run without looking twice. Here and nowhere else."""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import replace

from unmask.engine.caching import choose_cache
from unmask.engine.fields import choose_block_length, choose_temperature, name_and_options
from unmask.engine.request import Request
from unmask.models.loading import Model
from unmask.schedulers import OptionError, SchedulerSpec, UnknownSchedulerError, parse_scheduler
from unmask.server.errors import BadRequestError, show
from unmask.server.parse.limits import check_characters, check_tokens, encoded
from unmask.server.parse.policies import check_policy
from unmask.server.parse.region import Region, check_length, region_of
from unmask.server.settings import ServeSettings
from unmask.server.wire.chat import ChatRequest
from unmask.server.wire.completions import CompletionRequest
from unmask.server.wire.fields import MAX_SEED, GenerationFields, Message
from unmask.server.wire.fim import FimRequest
from unmask.server.wire.generate import GenerateRequest
from unmask.server.wire.openai import OpenAIFields
from unmask.server.wire.score import ScoreRequest

COMPLETION_MAX_TOKENS = 16  # OpenAI's default
Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]


def parse_generate(body: GenerateRequest, model: Model, settings: ServeSettings) -> Request:
    """The engine's request for a body of `POST /generate`; raises what `server.errors` maps to 400."""
    field, prompt = given_prompt(body, model)
    if body.canvas is not None:
        return _request(
            body, region_of(body.canvas, body.mask_marker, prompt, model), "canvas", _seed(body), model, settings
        )
    region = Region(_checked(prompt, field, model), body.max_tokens or settings.default_max_tokens)
    return _request(body, region, "max_tokens", _seed(body), model, settings)


def given_prompt(body: GenerateRequest | ScoreRequest, model: Model) -> tuple[str, Sequence[int]]:
    """(field, token ids) of the prompt, in whichever form a body gives it; no ids if it gives none."""
    if body.prompt is not None:
        return "prompt", encoded(body.prompt, "prompt", model)
    if body.messages is not None:
        return "messages", conversation(body.messages, model)
    check_tokens(body.input_ids or (), "input_ids", model)
    return "input_ids", body.input_ids or ()


def parse_completion(body: CompletionRequest, model: Model, settings: ServeSettings) -> list[Request]:
    """The engine's requests for a body of `POST /v1/completions`: the choices of the first prompt, then the next one's.

    Raises what `server.errors` maps to 400.
    """
    _check_choices(body, "prompt", _count(body.prompt), settings)
    prompts = [_checked(prompt, "prompt", model) for prompt in _prompts(body.prompt, model)]
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    suffix = _suffix(body.suffix, model)
    return _choices(body, "prompt", [Region(prompt, max_tokens, suffix=suffix) for prompt in prompts], model, settings)


def parse_chat(body: ChatRequest, model: Model, settings: ServeSettings) -> list[Request]:
    """The engine's requests for a body of `POST /v1/chat/completions`; raises what `server.errors` maps to 400."""
    max_tokens = body.max_tokens or body.max_completion_tokens or settings.default_max_tokens
    region = Region(_checked(conversation(body.messages, model), "messages", model), max_tokens)
    return _choices(body, "messages", [region], model, settings)


def parse_fim(body: FimRequest, model: Model, settings: ServeSettings) -> list[Request]:
    """The engine's requests for a body of `POST /v1/fim/completions`; raises what `server.errors` maps to 400."""
    body = body.model_copy(update={"seed": body.random_seed if body.seed is None else body.seed})
    prompt = _checked(encoded(body.prompt, "prompt", model), "prompt", model)
    region = Region(prompt, body.max_tokens or settings.default_max_tokens, suffix=_suffix(body.suffix, model))
    return _choices(body, "prompt", [region], model, settings)


def _choices(
    body: OpenAIFields, field: str, regions: Sequence[Region], model: Model, settings: ServeSettings
) -> list[Request]:
    """n requests for each region, which `field` gave, with seeds that count up."""
    _check_choices(body, field, len(regions), settings)
    first = _seed(body)
    seeds = [(first + i) % (MAX_SEED + 1) for i in range(body.n or 1)]
    plain = [_request(body, region, "max_tokens", seed, model, settings) for region in regions for seed in seeds]
    on, told = bool(body.ignore_eos), body.alternatives or 0
    return [replace(request, ignore_eos=on, top_logprobs=told) for request in plain]


def _check_choices(body: OpenAIFields, field: str, prompts: int, settings: ServeSettings) -> None:
    """Raise BadRequestError if a body asks for more choices than may wait."""
    if (choices := prompts * (body.n or 1)) > settings.max_waiting:
        raise BadRequestError(
            f"fields {field!r} and 'n' ask for {choices} choices and at most {settings.max_waiting} may wait; "
            "send fewer",
            field,
        )


def conversation(messages: Sequence[Message], model: Model) -> list[int]:
    """The token ids of a conversation, up to where the answer begins."""
    check_characters(sum(len(message.text) for message in messages), "messages", model)
    return model.tokenizer.chat([message.for_template() for message in messages])


def _suffix(text: str | None, model: Model) -> tuple[int, ...]:
    """The tokens behind the generation region, for a model that looks at them."""
    if text and model.network.architecture.block_size is not None:
        raise BadRequestError(
            "field 'suffix' would change nothing: this model writes one block after another and does not see what "
            "follows; leave it out",
            "suffix",
        )
    return tuple(encoded(text or "", "suffix", model))


def _request(
    body: GenerationFields, region: Region, field: str, seed: int, model: Model, settings: ServeSettings
) -> Request:
    """The engine's request; `field` is the one that decides the length of the region."""
    check_length(region, field, model)
    architecture = model.network.architecture
    return Request(
        id=uuid.uuid4().hex,
        prompt=region.prompt,
        max_tokens=region.max_tokens,
        block_length=choose_block_length(
            body.block_length, settings.default_block_length, region.max_tokens, architecture
        ),
        scheduler=_scheduler(body, settings),
        temperature=choose_temperature(body.temperature or 0.0),
        top_p=body.top_p or 1.0,
        top_k=max(body.top_k or 0, 0),
        seed=seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        max_forward_passes=body.max_forward_passes,
        cache=choose_cache(body.cache or settings.cache, architecture),
        template=region.template,
        suffix=region.suffix,
    )


def _scheduler(body: GenerationFields, settings: ServeSettings) -> SchedulerSpec:
    """The scheduler that a request names, with the options from the object and from the shorthands."""
    shorthands = body.shorthands
    name, options = name_and_options(body.scheduler, shorthands, settings.default_scheduler)
    if not isinstance(name, str):
        raise BadRequestError(f"field 'scheduler.name' must be the name of a scheduler, not {show(name)}", "scheduler")
    check_policy(options.get("policy"), "policy" if "policy" in shorthands else "scheduler", settings)
    try:
        return parse_scheduler(name, options)
    except UnknownSchedulerError as error:
        raise BadRequestError(str(error), "scheduler", "unknown_scheduler") from None
    except OptionError as error:
        param = error.option if error.option in shorthands else "scheduler"
        raise BadRequestError(f"scheduler {name!r}: {error}", param, "invalid_option") from None


def _count(prompt: Prompt) -> int:
    """How many prompts there are."""
    return 1 if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int) else len(prompt)


def _prompts(prompt: Prompt, model: Model) -> list[list[int]]:
    """The token ids of one or more prompts."""
    if isinstance(prompt, str):
        return [encoded(prompt, "prompt", model)]
    if not prompt or isinstance(prompt[0], int):
        return [[id for id in prompt if isinstance(id, int)]]
    return [
        encoded(one, "prompt", model) if isinstance(one, str) else list(one)
        for one in prompt
        if not isinstance(one, int)
    ]


def _checked(ids: Sequence[int], field: str, model: Model) -> tuple[int, ...]:
    """Token ids as a prompt: at least one, each a token of the model."""
    if not ids:
        raise BadRequestError(f"field {field!r} holds no tokens; give at least one", field)
    check_tokens(ids, field, model)
    return tuple(ids)


def _seed(body: GenerationFields) -> int:
    return secrets.randbelow(2**31) if body.seed is None else body.seed
