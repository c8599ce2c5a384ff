"""One definition of a setting gives its flag, its environment variable and its help text.

A command's settings are one pydantic-settings class. The field `max_rows` with a description is the flag
`--max-rows`, the
variable `UNMASK_MAX_ROWS` and a line of `--help`. The command line wins over the environment, which wins over the
default.
"""

import sys
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

ENV_PREFIX = "UNMASK_"
DEFAULT_MODEL = "llada-nano"


class CommandSettings(BaseSettings):
    """The settings of one command; subclasses add fields. Help texts end with the name of the variable."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_prefix_target="all",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        extra="forbid",
        frozen=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            variable = f"[env: {ENV_PREFIX}{(field.alias or name).upper()}]"
            if variable not in (field.description or ""):
                field.description = f"{field.description} {variable}"


class ModelSettings(CommandSettings):
    """Which model, where, and in what precision."""

    model: str = Field(DEFAULT_MODEL, description="a checkpoint: the embedded llada-nano, a folder, or a Hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto",
        description="where the model runs; auto takes CUDA if present. Which card: the first of CUDA_VISIBLE_DEVICES",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of the weights; auto is bfloat16 on CUDA and on CPUs made for it, else float32"
    )
    quantization: Literal["int8"] | None = Field(
        None,
        description="keep the matrices of the network's blocks in int8, about half the memory of bfloat16; needs the "
        "extra unmask[quant]",
    )
    compile: bool | None = Field(
        None,
        description="make kernels with torch.compile; by default on CUDA only, and not for a single answer. It needs a "
        "compiler for C, on a CPU for C++",
    )
    memory_fraction: float = Field(
        0.8, gt=0, lt=1, description="share of the memory left beside the weights that keys and values may take"
    )


BATCH_INVARIANT = (
    "compute each row by itself, so that an answer depends on its own request alone, bit for bit; "
    "docs/performance.md says what it costs"
)

Settings = TypeVar("Settings", bound=CommandSettings)


def parse_settings(settings: type[Settings], program: str, arguments: list[str]) -> Settings:
    """A command's settings, from its arguments and the environment. Prints help or an error and exits like argparse."""
    named = create_model(program, __base__=settings, __doc__=settings.__doc__)
    named.model_config["cli_prog_name"] = program
    try:
        return CliApp.run(named, cli_args=arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = "--" + "-".join(str(first["loc"][0]).split("_")) if first["loc"] else "arguments"
        print(f"{program}: {where}: {first['msg']}, not {first['input']!r}", file=sys.stderr)
        sys.exit(2)
