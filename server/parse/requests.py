"""From bodies to requests for the engine. A body becomes requests once, and they are not changed afterwards."""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import replace

from unmask.engine.adjustment import adjustment_of
from unmask.engine.caching import choose_cache
from unmask.engine.fields import choose_block_length, choose_temperature, name_and_options
from unmask.engine.growth import growing
from unmask.engine.input_state import choose_input_state
from unmask.engine.pace import Pace, choose_pace, parse_speed
from unmask.engine.request import Request
from unmask.engine.structure import Structure
from unmask.models.loading import Model
from unmask.schedulers import OptionError, SchedulerSpec, UnknownSchedulerError, parse_scheduler
from unmask.server.errors import BadRequestError, show
from unmask.server.parse.context import Context
from unmask.server.parse.limits import check_scored, too_long
from unmask.server.parse.policies import check_policy
from unmask.server.parse.prompts import checked, conversation, encoded, given_prompt, prompt_ids, split_prompts
from unmask.server.parse.region import Region, check_length, region_of, room_for
from unmask.server.parse.structure import structure_of
from unmask.server.settings import ServeSettings
from unmask.server.tools.calling import Calling, calling_of
from unmask.server.wire.anthropic import CountRequest, MessagesRequest
from unmask.server.wire.chat import ChatRequest
from unmask.server.wire.completions import CompletionRequest
from unmask.server.wire.fields import MAX_SEED, GenerationFields
from unmask.server.wire.fim import FimRequest
from unmask.server.wire.generate import GenerateRequest
from unmask.server.wire.items import as_messages
from unmask.server.wire.messages import Message, Prediction, TemplateValues
from unmask.server.wire.ollama import OllamaChatRequest, OllamaGenerateRequest
from unmask.server.wire.openai import OpenAIFields
from unmask.server.wire.openai_responses import ResponsesRequest
from unmask.server.wire.structure import ResponseFormat
from unmask.server.wire.tools import ToolFields

COMPLETION_MAX_TOKENS = 16  # OpenAI's default

Answers = tuple[list[Request], Calling | None]


def parse_generate(body: GenerateRequest, context: Context) -> tuple[Request, Region]:
    """The request for a body of `POST /generate`, and its region; raises what `server.errors` maps to 400."""
    model = context.model
    field, prompt = given_prompt(body, model)
    if body.canvas is not None:
        field, region = "canvas", region_of(body.canvas, body.mask_marker, prompt, model)
    else:
        prompt = checked(prompt, field, model)
        default = min(_default_length(body, context.default_length), room_for(prompt, (), field, model))
        field, region = "max_tokens", Region(prompt, body.max_tokens or default, draft=_draft(body.prediction, model))
    check_length(region, field, model)
    _check_least(body, region.max_tokens)
    scheduler, structure = _scheduler(body, context.settings), _form(body)
    return _request(body, region, _seed(body), scheduler, structure, context), region


def parse_completion(body: CompletionRequest, context: Context) -> list[Request]:
    """The requests for a body of `POST /v1/completions`: the choices of the first prompt, then the next one's.

    Raises what `server.errors` maps to 400.
    """
    prompts = split_prompts(body.prompt)
    _check_choices(body, "prompt", len(prompts), context.settings)
    ids = [prompt_ids(prompt, context.model) for prompt in prompts]
    if body.echo and body.logprobs is not None:
        check_scored(sum(len(prompt) ** 2 for prompt in ids), "echo")
    suffix = _suffix(body.suffix, context.model)
    regions = [_region(body, prompt, suffix, "prompt", COMPLETION_MAX_TOKENS, context.model) for prompt in ids]
    return _choices(body, regions, _form(body), context)


def parse_chat(body: ChatRequest, context: Context) -> Answers:
    """The requests for a body of `POST /v1/chat/completions`, and the tools that they may call.

    Raises what `server.errors` maps to 400.
    """
    _check_choices(body, "messages", 1, context.settings)
    values = body.chat_template_kwargs
    return _answers(body, body, body.messages, values, _form(body), "messages", context, body.prediction)


def parse_responses(body: ResponsesRequest, context: Context) -> Answers:
    """The request for a body of `POST /v1/responses`, and the tools that it may call.

    Raises what `server.errors` maps to 400.
    """
    form = _form(body, body.asked_format, "text")
    messages = [Message(role="user", content=body.input)] if isinstance(body.input, str) else as_messages(body.input)
    if body.instructions is not None:
        messages = [Message(role="system", content=body.instructions), *messages]
    if not messages:
        raise BadRequestError("field 'input' holds no messages; give at least one", "input")
    return _answers(body, body.tool_fields(), messages, body.chat_template_kwargs, form, "input", context)


def parse_messages(body: MessagesRequest, context: Context) -> Answers:
    """The request for a body of `POST /v1/messages`, and the tools that it may call.

    Raises what `server.errors` maps to 400.
    """
    form, values = _form(body, body.asked_format, "output_config"), body.chat_template_kwargs
    return _answers(body, body.tool_fields(), body.as_messages(), values, form, "messages", context)


def parse_ollama(body: OllamaChatRequest | OllamaGenerateRequest, context: Context) -> Answers:
    """The request for a body of `POST /api/chat` or `POST /api/generate`, and the tools that it may call.

    Raises what `server.errors` maps to 400.
    """
    fields, model = body.fields, context.model
    form = _form(fields, body.asked_format, "format")
    if isinstance(body, OllamaChatRequest):
        return _answers(fields, body, body.messages, body.chat_template_kwargs, form, "messages", context)
    text = body.prompt or ""
    if body.raw or body.suffix:
        prompt, suffix = checked(encoded(text, "prompt", model), "prompt", model), _suffix(body.suffix, model)
        region = _region(fields, prompt, suffix, "prompt", context.default_length, model)
        return _choices(fields, [region], form, context), None
    system = [Message(role="system", content=body.system)] if body.system else []
    return _answers(fields, ToolFields(), [*system, Message(role="user", content=text)], None, form, "prompt", context)


def parse_count(body: CountRequest, context: Context) -> list[int]:
    """The tokens that a body of `POST /v1/messages/count_tokens` makes; raises what `server.errors` maps to 400."""
    calling = _calling(body.tool_fields(), None, context.settings)
    tools = () if calling is None else calling.tools
    return conversation(body.as_messages(), body.chat_template_kwargs, context.model, tools, "messages")


def parse_fim(body: FimRequest, context: Context) -> list[Request]:
    """The requests for a body of `POST /v1/fim/completions`; raises what `server.errors` maps to 400."""
    _check_choices(body, "prompt", 1, context.settings)
    model, default = context.model, context.default_length
    prompt = checked(encoded(body.prompt, "prompt", model), "prompt", model)
    region = _region(body, prompt, _suffix(body.suffix, model), "prompt", default, model)
    return _choices(body, [region], _form(body), context)


def _form(body: GenerationFields, asked: ResponseFormat | None = None, param: str = "") -> Structure | None:
    """The form of the answers, which a body may also have `asked` for in a field of its endpoint, `param`."""
    if asked is not None:
        return structure_of(body, asked, param)
    return structure_of(body, body.response_format, "response_format")


def _answers(
    body: GenerationFields,
    tools: ToolFields,
    messages: Sequence[Message],
    values: TemplateValues,
    form: Structure | None,
    field: str,
    context: Context,
    prediction: Prediction | None = None,
) -> Answers:
    """The requests for answers to a conversation, which `field` holds, and the tools that they may call."""
    calling = _calling(tools, form, context.settings)
    region = _chat_region(body, messages, values, calling, field, context)
    region = replace(region, draft=_draft(prediction, context.model))
    return _choices(body, [region], form, context), calling


def _chat_region(
    body: GenerationFields,
    messages: Sequence[Message],
    values: TemplateValues,
    calling: Calling | None,
    field: str,
    context: Context,
) -> Region:
    """The region after a conversation, which `field` holds."""
    model, default = context.model, context.default_length
    tools = () if calling is None else calling.tools
    prompt = checked(conversation(messages, values, model, tools, field), field, model)
    if tools and len(prompt) >= model.max_positions:
        raise too_long(
            f"the prompt has {len(prompt)} tokens with its tools, which leaves no room for an answer; send fewer "
            "tools, or start the server with --ignore-tools",
            field,
            model,
        )
    return _region(body, prompt, (), field, default, model)


def _calling(body: ToolFields, form: Structure | None, settings: ServeSettings) -> Calling | None:
    """The tools that the answers may call, where others have a form.

    Raises BadRequestError if a call is asked for where tools are ignored.
    """
    if not settings.ignore_tools:
        return calling_of(body, form)
    if body.tools and body.tool_choice not in (None, "none", "auto"):
        raise BadRequestError(
            "field 'tool_choice' asks for a call, and this server was started with --ignore-tools; send 'auto'",
            "tool_choice",
            "unsupported_value",
        )
    return None


def _region(
    body: GenerationFields, prompt: tuple[int, ...], suffix: tuple[int, ...], field: str, default: int, model: Model
) -> Region:
    """The region for a body of OpenAI's: there `max_tokens` is an upper bound, so it is cut to the room that there is.

    Raises BadRequestError, about the field of the prompt, if there is none.
    """
    _check_least(body, body.max_tokens)
    asked = _default_length(body, default) if body.max_tokens is None else body.max_tokens
    return Region(prompt, min(asked, room_for(prompt, suffix, field, model, least=min(asked, 1))), suffix=suffix)


def _choices(
    body: GenerationFields,
    regions: Sequence[Region],
    form: Structure | None,
    context: Context,
) -> list[Request]:
    """n requests for each region, with seeds that count up."""
    first, scheduler = _seed(body), _scheduler(body, context.settings)
    n = (body.n or 1) if isinstance(body, OpenAIFields) else 1
    seeds = [(first + i) % (MAX_SEED + 1) for i in range(n)]
    return [_request(body, region, seed, scheduler, form, context) for region in regions for seed in seeds]


def _check_choices(body: OpenAIFields, field: str, prompts: int, settings: ServeSettings) -> None:
    """Raise BadRequestError if a body asks for more choices than may wait."""
    if (choices := prompts * (body.n or 1)) > settings.max_waiting:
        raise BadRequestError(
            f"fields {field!r} and 'n' ask for {choices} choices and at most {settings.max_waiting} may wait; "
            "send fewer",
            field,
        )


def _suffix(text: str | None, model: Model) -> tuple[int, ...]:
    """The tokens after the generation region, for a model that looks at them."""
    if not text:
        return ()
    if model.network.architecture.block_size is not None:
        raise BadRequestError(
            "field 'suffix' would change nothing: this model writes one block after another and does not see what "
            "follows; leave it out",
            "suffix",
        )
    return tuple(encoded(text, "suffix", model))


def _draft(prediction: Prediction | None, model: Model) -> tuple[int, ...]:
    """The tokens of a predicted text."""
    return () if prediction is None else tuple(encoded(prediction.text, "prediction", model))


def _default_length(body: GenerationFields, default: int) -> int:
    """The length of a region for which none is given."""
    return max(default, body.min_tokens or 0)


def _check_least(body: GenerationFields, most: int | None) -> None:
    """Raise BadRequestError for a least number of tokens that is more than the most, where that is given."""
    if most is not None and (body.min_tokens or 0) > most:
        raise BadRequestError(
            f"field 'min_tokens' of {body.min_tokens} is more than the {most} tokens that are asked for; ask for less",
            "min_tokens",
        )


def _request(
    body: GenerationFields,
    region: Region,
    seed: int,
    scheduler: SchedulerSpec,
    structure: Structure | None,
    context: Context,
) -> Request:
    """The engine's request."""
    architecture, settings = context.model.network.architecture, context.settings
    request = Request(
        id=uuid.uuid4().hex,
        prompt=region.prompt,
        max_tokens=region.max_tokens,
        block_length=choose_block_length(
            body.block_length, settings.default_block_length, region.max_tokens, architecture
        ),
        scheduler=scheduler,
        temperature=choose_temperature(body.temperature or 0.0),
        top_p=body.top_p or 1.0,
        top_k=max(body.top_k or 0, 0),
        seed=seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        max_forward_passes=body.max_forward_passes,
        cache=choose_cache(body.cache or settings.cache, architecture),
        input_state=choose_input_state(body.input_state or settings.input_state, context.model),
        template=region.template,
        suffix=region.suffix,
        draft=region.draft,
        min_tokens=min(body.min_tokens or 0, region.max_tokens),
        ignore_eos=bool(body.ignore_eos),
        top_logprobs=body.alternatives or 0,
        client=context.client,
        adapter=context.adapter,
        structure=structure,
        pace=_pace(body, scheduler, context),
        adjustment=adjustment_of(
            {int(token): value for token, value in (body.logit_bias or {}).items()},
            body.presence_penalty,
            body.frequency_penalty,
            body.repetition_penalty,
            body.min_p,
            context.model.vocab_size,
        ),
    )
    return growing(request, context.model)


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


def _pace(body: GenerationFields, scheduler: SchedulerSpec, context: Context) -> Pace | None:
    """How the load sets the speed. An option `speed` in the object of the scheduler is a speed that is named, too."""
    speed, default = body.speed, context.settings.speed
    if speed is None and isinstance(body.scheduler, dict):
        speed = body.scheduler.get("speed")
    return choose_pace(speed, scheduler, parse_speed(default) if default else None, context.deadline)


def _seed(body: GenerationFields) -> int:
    return secrets.randbelow(2**31) if body.seed is None else body.seed
