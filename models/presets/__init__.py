"""Presets: what is known of one public checkpoint, one TOML file each, so that a short name stands for all of it.

A preset names the checkpoint, the defaults that its publishers decode it with, and the keys of its config.json that
give the network its shape. So the memory that it takes is known before anything is downloaded.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from unmask import weights
from unmask.models.config import Config, read_json
from unmask.settings import ModelSettings, flag_of

Settings = TypeVar("Settings", bound=ModelSettings)

FOLDER = Path(__file__).parent
REQUESTED = ("scheduler", "block_length", "cache")  # of a preset's defaults: what requests ask for


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Published(_Part):
    """One accuracy that somebody published, not a measurement of ours.

    task             what was asked, and how
    decoding         how it was decoded
    accuracy         in percent
    tokens_per_pass  how many tokens a forward pass revealed in the mean
    """

    task: str
    decoding: str
    accuracy: float
    tokens_per_pass: float
    source: str


class Check(_Part):
    """A prompt, and what the model answers to it with the preset; measured."""

    prompt: str
    answer: str


class Preset(_Part):
    """What is known of one checkpoint. What is left out has the default that holds without a preset.

    name          its short name, which is the name of its file
    checkpoint    a Hub id, or the name of a shipped checkpoint
    revision      branch, tag or commit of a Hub id
    about         one sentence
    scheduler     as a command line names it, with options
    block_length  tokens per block; one of more than the generation region is one block for all of it
    max_tokens    length of the generation region
    stop_ids      tokens that end a text, beside those that config.json and the tokenizer name
    notes         pitfalls
    like          another preset, whose config this one has, but for the keys of its own
    config        keys of config.json; of a shipped checkpoint they are in its folder
    """

    name: str
    checkpoint: str
    about: str
    licence: str | None = None
    revision: str | None = None
    scheduler: str | None = None
    block_length: int | None = Field(None, ge=1)
    cache: str | None = None
    input_state: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    stop_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    check: Check | None = None
    like: str | None = None
    config: Mapping[str, Any] = {}

    @property
    def defaults(self) -> dict[str, str | int]:
        """What it sets of a request's defaults, by the names of the fields."""
        names = ("scheduler", "block_length", "cache", "input_state", "max_tokens")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def described(self) -> str:
        """What was chosen, in words for a log."""
        chosen = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.defaults.items())
        return f"preset {self.name}: {self.checkpoint}, {chosen}"


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def find_preset(name: str) -> Preset | None:
    """The preset of this name, unless there is a folder of that name, which is then what is meant."""
    return None if name not in preset_names() or Path(name).is_dir() else preset_named(name)


def preset_named(name: str) -> Preset:
    """The preset of a name that is among `preset_names`, whatever folders there are."""
    return read_preset(FOLDER / f"{name}.toml")


@cache
def read_preset(file: Path) -> Preset:
    """The preset in a file. They are ours, so a fault is a ValidationError and no sentence for users."""
    return Preset(name=file.stem, **tomllib.loads(file.read_text(encoding="utf-8")))


def config_of(preset: Preset) -> Config:
    """The keys of config.json that say what network it has. Needs no network."""
    if (shipped := weights.find(preset.checkpoint)) is not None:
        return read_json(shipped / "config.json")
    other = {} if preset.like is None else config_of(read_preset(FOLDER / f"{preset.like}.toml"))
    return {**other, **preset.config}


def with_preset(settings: Settings) -> tuple[Settings, list[str]]:
    """The settings of a command with the preset's scheduler, block length and cache where neither a flag nor a variable
    gives them, and lines that say what was chosen: none for a preset that chooses nothing, as that of llada-nano.
    The same settings and no line if `model` names no preset.

    The preset's length and input state come with the model, see `models.loading.Model`.
    """
    preset = find_preset(settings.model)
    if preset is None:
        return settings, []
    kind = type(settings)
    named = "served_model_name" in kind.model_fields and len(settings.lora) != 1  # one is merged, and gives its name
    taken: dict[str, Any] = {"served_model_name": preset.name} if named else {}
    for name, value in preset.defaults.items():
        field = f"default_{name}" if f"default_{name}" in kind.model_fields else name
        if name in REQUESTED and field in kind.model_fields:
            taken[field] = (value,) if isinstance(kind.model_fields[field].default, tuple) else value
    given = sorted(taken.keys() & settings.model_fields_set)
    instead = f"; given instead: {', '.join(map(flag_of, given))}" if given else ""
    chosen = [preset.described() + instead] if preset.defaults else []
    lines = [*chosen, *(f"preset {preset.name}: {note}" for note in preset.notes)]
    return settings.model_copy(update={field: value for field, value in taken.items() if field not in given}), lines
