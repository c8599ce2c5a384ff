"""One definition of a setting gives its flag, its environment variable and its help text.

A command's settings are one pydantic-settings class. The field `max_rows` with a description is the flag
`--max-rows`, the variable `UNMASK_MAX_ROWS` and an entry of `--help`. The command line wins over the environment, and
the environment over the default.

Settings classes live in modules that import neither torch nor a web framework, so that `--help` is quick.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from unmask import defaults, weights

ENV_PREFIX = "UNMASK_"
DEFAULT_MODEL = "llada-nano"

T = TypeVar("T")


def _split(given: object) -> object:
    """The values in one text with commas, or in several. Raises ValueError if there are none."""
    if isinstance(given, list | tuple):
        return [part for value in given for part in (_split(value) if isinstance(value, str) else [value])]  # type: ignore[attr-defined]
    if not isinstance(given, str):
        return given
    if not (values := [value.strip() for value in given.split(",") if value.strip()]):
        raise ValueError("it is empty; give a value, or leave it out")  # an empty variable must open no door
    return values


# A flag that may be repeated. One flag, or the variable, may also hold several values with commas between them.
Several = Annotated[tuple[T, ...], NoDecode, BeforeValidator(_split)]


def _in_a_folder(file: Path) -> Path:
    if not file.parent.is_dir():
        raise ValueError(f"{file} cannot be written: there is no folder {file.parent}; make it first")
    return file


OutFile = Annotated[Path, AfterValidator(_in_a_folder)]  # a file that a command will write

BlockLength = Annotated[int, Field(ge=1)] | Literal["full"]


DeviceName = Literal["auto", "cuda", "cpu", "mps", "xpu"] | Annotated[str, Field(pattern=r"^(cuda|xpu):\d+$")]


def flag_of(name: str) -> str:
    """The flag of a field or its alias: `--max-rows` of `max_rows`."""
    return "--" + name.replace("_", "-")


class CommandSettings(BaseSettings):
    """The settings of one command; subclasses add fields.

    GROUPS      title of a group of the help text: the fields in it, with spaces between them
    POSITIONAL  the field that an argument without a flag stands for; one that has a default is a flag too
    EXAMPLES    command lines for the end of the help text
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_prefix_target="all", extra="forbid", frozen=True)

    GROUPS: ClassVar[dict[str, str]] = {}
    POSITIONAL: ClassVar[str | None] = None
    EXAMPLES: ClassVar[tuple[str, ...]] = ()


class ModelSettings(CommandSettings):
    """Which model, where, and in what precision."""

    GROUPS: ClassVar[dict[str, str]] = {
        "model": "model revision lora verify device dtype quantization compile memory_fraction",
    }

    model: str = Field(
        DEFAULT_MODEL,
        description="a checkpoint: a preset such as llada-8b, see `unmask models`, an embedded one, "
        f"{', '.join(weights.checkpoints())}, a folder, or a Hub id",
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    device: DeviceName = Field(
        "auto",
        description="where the model runs: cpu, cuda, cuda:1, mps, xpu; auto takes CUDA if present. mps (Mac) and xpu "
        "(Intel) were tried by emulation only",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="precision of the weights; auto is bfloat16 on CUDA and on CPUs that compute in it, else float32",
    )
    quantization: Literal["int8", "int4"] | None = Field(
        None,
        description="keep the matrices of the network's blocks in int8, about half the memory of bfloat16, or in int4, "
        "less than a third; needs the extra unmask[quant]",
    )
    compile: bool | None = Field(
        None,
        description="compile kernels with torch.compile; by default on CUDA only, and not for a single answer. It "
        "needs a C compiler, on a CPU a C++ compiler",
    )
    lora: Several[str] = Field(
        (),
        description="an adapter in PEFT's layout: a folder or a Hub id, and perhaps =name; may be repeated. One is "
        "merged into the weights; of several a request chooses one by the name of its model",
    )
    verify: bool = Field(
        False, description="check the bytes of weights from the Hub by the hashes that it states, before they are read"
    )
    memory_fraction: float = Field(
        defaults.MEMORY_FRACTION,
        gt=0,
        lt=1,
        description="share of the memory beside the weights that keys and values may take",
    )


INPUT_STATE = (
    "what is fed in place of masks: mask, residual, soft, iter-smooth, with options as name:option=value; auto is what "
    "the model was trained with"
)
BATCH_INVARIANT = (
    "compute each row by itself, so that an answer depends on its own request alone, bit for bit; "
    "docs/performance.md says what it costs"
)
PREFIX_REUSE = (
    "keep the keys and values of finished blocks when a request ends, and take them where another begins with the same "
    "tokens (prefix caching); of block-causal models alone, docs/performance.md says what it saves"
)


class GenerateSettings(ModelSettings):
    """Generate a text. A terminal shows the canvas as it fills; a pipe gets the text only."""

    GROUPS: ClassVar[dict[str, str]] = {
        "generation": "raw scheduler max_tokens block_length cache input_state temperature seed delay",
        **ModelSettings.GROUPS,
    }
    POSITIONAL: ClassVar[str | None] = "prompt"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'unmask generate "Tom has 3 pears. Tom buys 4 more. How many pears?"',
        'unmask generate "..." --scheduler threshold:threshold=0.8',
        'unmask generate "..." --model GSAI-ML/LLaDA-8B-Instruct --max-tokens 128',
    )

    prompt: str = Field(description="what to ask")
    raw: bool = Field(False, description="send the prompt as it is, without the chat template")
    scheduler: str = Field(defaults.SCHEDULER, description="the scheduler, with options as name:option=value")
    max_tokens: int | None = Field(
        None, ge=1, description="length of the generation region in tokens; by default that of `unmask serve`"
    )
    block_length: int = Field(
        defaults.BLOCK_LENGTH, ge=1, description="tokens per block; blocks are filled left to right"
    )
    cache: str = Field(
        defaults.CACHE, description="keys and values kept: none, prefix, dual, dual:refresh=8, block, or auto"
    )
    input_state: str = Field(defaults.INPUT_STATE, description=INPUT_STATE)
    temperature: float = Field(0.0, ge=0.0, description="0 proposes the most probable token, above 0 samples")
    seed: int = Field(0, description="seed of the random draws")
    delay: float = Field(0.05, ge=0.0, description="seconds to pause after each step on a terminal, to watch")


class ModelsSettings(CommandSettings):
    """List the presets, with the memory that each needs and whether this machine has it. Nothing is downloaded.

    Give the name of one to see all that is known of it."""

    POSITIONAL: ClassVar[str | None] = "preset"
    EXAMPLES: ClassVar[tuple[str, ...]] = ("unmask models", "unmask models llada-8b --device cpu")

    preset: str | None = Field(None, description="the name of a preset")
    device: DeviceName = Field(
        "auto", description="what must hold it: cpu, cuda, cuda:1, mps, xpu; auto takes CUDA if present"
    )


class CheckSettings(ModelSettings):
    """See whether a model works on this machine: load it, have it answer one prompt twice with its preset, check that
    confidences are probabilities, that both answers are the same and, where the preset states one, that it is that.

    Run it first on a new machine, and paste what it prints into a bug report."""

    POSITIONAL: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "unmask check",
        "unmask check llada-8b --device cuda",
        "unmask check llada-8b --verify",
    )


class SchedulersSettings(CommandSettings):
    """List the installed schedulers with their options and defaults."""


class CompletionSettings(CommandSettings):
    """Print a script that completes commands, flags and values in your shell."""

    POSITIONAL: ClassVar[str | None] = "shell"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'eval "$(unmask completion bash)"',
        'unmask completion zsh > "${fpath[1]}/_unmask"',
    )

    shell: Literal["bash", "zsh", "tcsh"] = Field(description="your shell: bash, zsh or tcsh")
