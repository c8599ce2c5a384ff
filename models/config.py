"""Reading config.json: each value is checked where it is read, so that an error names its key."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.models.errors import CheckpointError

Config = Mapping[str, Any]

METHODS = {"gptq": "GPTQ", "awq": "AWQ", "bitsandbytes": "bitsandbytes"}  # by their names in config.json
# Far above any published network. Larger ones would take long to build before they are found not to fit.
MAX_LAYERS, MAX_EXPERTS = 1024, 4096


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if there is no such file or no object in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read in {path.parent}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}, an object is expected")
    return value


def integer(config: Config, key: str, default: int | None = None) -> int:
    """A positive integer. A key that is absent or null takes the default; without one it is an error."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(config, key, "a positive integer")
    return value


def at_most(config: Config, key: str, limit: int, what: str) -> int:
    """A positive integer with a limit; `what` says in the error what the limit is."""
    value = integer(config, key)
    if value > limit:
        raise CheckpointError(f"config.json has {key} = {value}, which must be at most {limit}: {what}")
    return value


def layer_count(config: Config, key: str) -> int:
    """How many layers a network has."""
    return at_most(config, key, MAX_LAYERS, "no network is deeper")


def expert_count(config: Config, key: str) -> int:
    """How many experts a layer has."""
    return at_most(config, key, MAX_EXPERTS, "no layer has more experts")


def number(config: Config, key: str) -> float:
    """A positive number."""
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise _wrong(config, key, "a positive number")
    return float(value)


def flag(config: Config, key: str, default: bool | None = None) -> bool:
    """True or false. A key that is absent or null takes the default; without one it is an error."""
    value = default if config.get(key) is None else config[key]
    if not isinstance(value, bool):
        raise _wrong(config, key, "true or false")
    return value


def require_plain(config: Config) -> None:
    """Raise CheckpointError for a checkpoint whose weights were quantised by GPTQ, AWQ, bitsandbytes or another."""
    quantized = config.get("quantization_config")
    if quantized is None:
        return
    how = quantized.get("quant_method") if isinstance(quantized, dict) else None
    name = METHODS.get(how, repr(how)) if isinstance(how, str) else "a method that it does not name"
    raise CheckpointError(
        f"the weights are quantised by {name}, as config.json says, and only plain ones are read; load the checkpoint "
        "that they were made from, with --quantization int8 or int4 where memory is short"
    )


def require_supported(config: Config, supported: Mapping[str, tuple[object, ...]]) -> None:
    """Raise CheckpointError for an unsupported value. None among the supported values allows an absent key."""
    for key, values in supported.items():
        if config.get(key) not in values:
            allowed = " or ".join(json.dumps(value) for value in values)
            found = f"has {key} = {json.dumps(config[key])}" if key in config else f"lacks the key {key!r}"
            raise CheckpointError(f"config.json {found}; only {allowed} is supported")


def divide(config: Config, key: str, by: str, quotient: str) -> int:
    """config[key] / config[by], which must be whole; `quotient` says in the error what it is."""
    whole, rest = divmod(integer(config, key), integer(config, by))
    if rest:
        raise CheckpointError(
            f"config.json has {key} = {config[key]}, which must be a multiple of {by} = {config[by]} to give {quotient}"
        )
    return whole


def _wrong(config: Config, key: str, expected: str) -> CheckpointError:
    if key not in config:
        return CheckpointError(f"config.json lacks the key {key!r}, which must be {expected}")
    return CheckpointError(f"config.json has {key} = {json.dumps(config[key])}, which must be {expected}")
