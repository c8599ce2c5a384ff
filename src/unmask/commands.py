"""The commands `unmask generate` and `unmask schedulers`."""

import sys
import time
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unmask.engine.caching import choose_cache, require_cache
from unmask.engine.engine import Engine
from unmask.engine.input_state import InputState, choose_input_state, require_input_state
from unmask.engine.request import Request, Result, Step, fit_block_length
from unmask.errors import UserError
from unmask.models.loading import Model, load_configured
from unmask.models.presets import with_preset
from unmask.schedulers import json_schema, parse_scheduler_text, scheduler_class, scheduler_names
from unmask.settings import DEFAULT_MODEL, GenerateSettings, SchedulersSettings

MASK = "░"
ENDS = {"stop": "ended by the model", "length": "ended at --max-tokens"}
STOP = "·"  # an end of text; its own name would hide the text around it
MASK_STYLE = "#888888"
# Style of a token by the least confidence that earns it: the colours that dLLM demonstrations use. New ones are bold.
STYLES = ((0.7, "#66cc66"), (0.3, "#ffaa33"), (0.0, "#ff6666"))


def generate(settings: GenerateSettings) -> None:
    """Run one request; text to standard output, figures to standard error."""
    settings, chosen = with_preset(settings)
    print(*chosen[:1], sep="\n", end="\n" * bool(chosen), file=sys.stderr)
    scheduler = parse_scheduler_text(settings.scheduler)  # what is wrong is said before the model loads
    require_cache(settings.cache)
    require_input_state(settings.input_state)
    # For a single answer, compiling the kernels takes longer than they save.
    model = load_configured(settings.model_copy(update={"compile": bool(settings.compile)}))
    prompt = _prompt(model, settings)
    length = settings.max_tokens or min(model.usual_length, model.max_positions - len(prompt))
    request = Request(
        id="generate",
        prompt=prompt,
        max_tokens=length,
        block_length=fit_block_length(settings.block_length, length, model.network.architecture),
        scheduler=scheduler,
        temperature=settings.temperature,
        seed=settings.seed,
        cache=choose_cache(settings.cache, model.network.architecture),
        input_state=choose_input_state(settings.input_state, model),
    )
    steps = Engine(model, max_rows=1, memory_fraction=settings.memory_fraction).run([request])
    console = Console()
    result = _watch(steps, model, request, settings.delay, console) if console.is_terminal else _last(steps)
    if not console.is_terminal:
        print(result.text)
    print(_figures(result, request.input_state), file=sys.stderr)
    if not result.text.strip():
        print(_why_empty(model), file=sys.stderr)


def schedulers(settings: SchedulersSettings) -> None:
    """Print every scheduler, what it does, and its options."""
    table = Table("scheduler", "option", "default", "meaning", box=SIMPLE_HEAD, pad_edge=False)
    for name in scheduler_names():
        kind = scheduler_class(name)
        table.add_row(Text(name, style="bold"), "", "", (kind.__doc__ or "").strip().splitlines()[0])
        for option, schema in json_schema(kind.Options)["properties"].items():
            default = "" if schema["default"] is None else str(schema["default"])
            table.add_row("", option, default, schema["description"])
        table.add_section()
    Console().print(table)


def _prompt(model: Model, settings: GenerateSettings) -> tuple[int, ...]:
    prompt = model.tokenizer.ask(settings.prompt, settings.raw)
    if not prompt:
        raise UserError("the prompt holds no tokens; give at least one word")
    length = settings.max_tokens or 1
    if len(prompt) + length > model.max_positions:
        raise UserError(
            f"a prompt of {len(prompt)} tokens and --max-tokens of {length} tokens are more than the "
            f"{model.max_positions} positions of the model; shorten one of them"
        )
    return tuple(prompt)


def _last(steps: Iterator[Step]) -> Result:
    return next(step.result for step in steps if step.result is not None)


def _watch(steps: Iterator[Step], model: Model, request: Request, delay: float, console: Console) -> Result:
    """Draw the canvas after every step: masks grey, new tokens coloured by confidence."""
    tokens = [Text(MASK, style=MASK_STYLE) for _ in range(request.max_tokens)]
    console.print(_legend(request.scheduler.name))
    with Live(console=console, auto_refresh=False) as live:
        for step in steps:
            for token in tokens:
                token.style = str(token.style).removeprefix("bold ")
            for reveal in (*step.revealed, *step.written):
                style = "bold " + next(style for least, style in STYLES if reveal.probability >= least)
                text = STOP if reveal.token_id in model.stop_ids else model.tokenizer.token_text(reveal.token_id)
                tokens[reveal.position] = Text(text, style=style)
            for position in step.remasked:
                tokens[position] = Text(MASK, style=MASK_STYLE)
            if step.result is not None:
                live.update(Text(step.result.text), refresh=True)
                return step.result
            live.update(Text.assemble(*tokens), refresh=True)
            time.sleep(delay)
    raise AssertionError("the engine ends every request with a result")


def _legend(scheduler: str) -> Text:
    """What the colours of the canvas mean."""
    least = [(f"confidence above {least:g}" if least else "below that", style) for least, style in STYLES]
    parts = [(f"{scheduler}:  ", ""), (f"{MASK} masked", MASK_STYLE), *least]
    return Text("  ").join(Text(text, style=style) for text, style in parts)


def _why_empty(model: Model) -> str:
    """A hint for a first prompt that the embedded model, which knows two tasks only, cannot answer."""
    if model.name != DEFAULT_MODEL:
        return "the answer is empty: the model ended the text at once"
    return (
        f"the answer is empty: {DEFAULT_MODEL} is a tiny model of two tasks, word problems and 6x6 Sudokus. Try\n"
        "  unmask generate 'Tom has 3 pears. Tom buys 4 more. How many pears does Tom have?'"
    )


def _figures(result: Result, input_state: InputState) -> str:
    tokens, fed = len(result.token_ids), f", input state {input_state}" if input_state.feeds else ""
    return (
        f"{tokens} tokens in {result.forward_passes} forward passes "
        f"({tokens / result.forward_passes:.1f} per pass), {result.generate_seconds:.2f} s, "
        f"{ENDS.get(result.finish_reason, result.finish_reason)}{fed}"
    )
