"""The command line: `unmask COMMAND ...`. A command's code is imported when the command runs, not before.

For `--help` only the module of its settings is imported, which needs no torch.
"""

import os
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any

from unmask.errors import UserError, unknown

if TYPE_CHECKING:
    from unmask.settings import CommandSettings


@dataclass(frozen=True)
class Command:
    """Where a command is: modules of this package, names in them, and one line of help."""

    settings: tuple[str, str]
    run: tuple[str, str]
    help: str


COMMANDS = {
    "serve": Command(("server.settings", "ServeSettings"), ("server.serve", "serve"), "serve a model over HTTP"),
    "generate": Command(
        ("settings", "GenerateSettings"), ("commands", "generate"), "generate a text and watch the canvas fill"
    ),
    "check": Command(("settings", "CheckSettings"), ("check", "check"), "see whether a model works on this machine"),
    "models": Command(
        ("settings", "ModelsSettings"),
        ("listing", "models"),
        "show the presets of public checkpoints and what fits here",
    ),
    "schedulers": Command(
        ("settings", "SchedulersSettings"),
        ("commands", "schedulers"),
        "show the schedulers, their options and defaults",
    ),
    "eval": Command(
        ("evals.settings", "EvalSettings"),
        ("evals.commands", "evaluate"),
        "measure accuracy, forward passes and speed",
    ),
    "bench": Command(
        ("evals.bench.settings", "BenchSettings"),
        ("evals.bench.command", "bench"),
        "measure speed, offline and over HTTP",
    ),
    "train-policy": Command(
        ("policies.settings", "TrainPolicySettings"),
        ("policies.commands", "train_policy"),
        "learn which tokens to reveal",
    ),
    "train-model": Command(
        ("evals.settings", "TrainModelSettings"),
        ("evals.commands", "train_model"),
        "train the embedded model from nothing",
    ),
    "completion": Command(
        ("settings", "CompletionSettings"),
        ("completion", "completion"),
        "print a script that completes commands and flags",
    ),
}

EXAMPLES = """examples:
  unmask serve                                       serve the embedded model
  unmask serve llada-8b --port 80                    serve a model of the Hub
  unmask generate "Tom has 3 pears. Tom buys 4 more. How many pears?"

Each flag is also an environment variable: --max-rows is UNMASK_MAX_ROWS. A
variable holds for all commands that have the flag."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command; errors that the user can mend end in one sentence and exit code 1, or 2 for wrong arguments."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_help())
    elif command in ("-V", "--version"):
        print(f"unmask {version('unmask')} (Python {python_version()}, torch {version('torch')})")
    elif command not in COMMANDS:
        print(f"unmask: {unknown('command', command, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    elif code := _run(command, rest):
        sys.exit(code)


def _run(command: str, arguments: list[str]) -> int:
    """The exit code."""
    from unmask.arguments import parse_settings

    program, found = f"unmask {command}", COMMANDS[command]
    try:
        settings = parse_settings(settings_of(command), program, arguments)
        if sys.stderr.isatty() and hasattr(settings, "model"):  # imports alone take seconds
            print(f"loading {settings.model} ...", file=sys.stderr, flush=True)
        return _named(*found.run)(settings) or 0
    except UserError as error:
        print(f"{program}: {error.args[0]}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # what reads the output has ended, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{program}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def settings_of(command: str) -> "type[CommandSettings]":
    """The settings class of a command."""
    found: type[CommandSettings] = _named(*COMMANDS[command].settings)
    return found


def _named(module: str, name: str) -> Any:
    return getattr(import_module(f"unmask.{module}"), name)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    usage = "usage: unmask COMMAND ...   (unmask COMMAND --help says more)"
    return "\n".join([usage, "", "commands:", *lines, "", EXAMPLES])
