"""Rules for the fields of a generation that HTTP and Python share."""

from collections.abc import Mapping
from reprlib import repr as show
from typing import Any

from unmask.engine.errors import RequestError
from unmask.engine.request import fit_block_length
from unmask.models.architecture import Architecture
from unmask.schedulers import scheduler_names
from unmask.schedulers.registry import split_text

LOWEST_TEMPERATURE = 1e-6  # below, logits divided by it overflow float32; that is greedy already


def name_and_options(
    scheduler: object, shorthands: Mapping[str, object], default: str
) -> tuple[object, dict[str, object]]:
    """(name, options) of a scheduler that is given as a name, or as a mapping with `name` and options.

    shorthands  options that are given as fields of their own; without a name, one that has the name of a scheduler
                chooses that scheduler
    default     the scheduler if nothing chooses one, as a command line names it; shorthands replace its options

    A name that is not a text is returned as it is. Raises RequestError for an option that is given twice.
    """
    name, options = _named(scheduler)
    if name is None:
        usual, preset = split_text(default)
        name = next((name for name in shorthands if name in scheduler_names()), usual)
        return name, {**(preset if name == usual else {}), **shorthands}
    if twice := shorthands.keys() & options.keys():
        option = min(twice)
        raise RequestError(f"option {option!r} is given twice; give it in 'scheduler' or on its own", option)
    return name, {**options, **shorthands}


def _named(scheduler: object) -> tuple[object, dict[str, Any]]:
    """(name, options) of the field `scheduler`; no name if it is left out."""
    if not isinstance(scheduler, Mapping):
        return scheduler, {}
    name = scheduler.get("name")
    if name is None:
        raise RequestError(f"field 'scheduler.name' must be the name of a scheduler, not {show(name)}", "scheduler")
    return name, {option: value for option, value in scheduler.items() if option != "name"}


def choose_block_length(asked: int | None, default: int, max_tokens: int, a: Architecture) -> int:
    """The block length that is asked for, at most the generation region; or the default, made to fit.

    `check_block_length` checks whether it fits the blocks of a block-causal model.
    """
    if asked is None:
        return fit_block_length(default, max_tokens, a)
    return asked if a.block_size is not None else min(asked, max_tokens)


def choose_temperature(asked: float) -> float:
    """The temperature to use: 0 for a temperature that is too small to divide by."""
    return asked if asked >= LOWEST_TEMPERATURE else 0.0
