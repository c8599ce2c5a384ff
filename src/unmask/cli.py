"""The command line: `unmask COMMAND ...`. A command's room is imported when the command runs, not before."""

import sys
from importlib import import_module
from importlib.metadata import version

# command: (module of this package, settings class, function that runs it, one line of help)
COMMANDS = {
    "serve": ("server.run", "ServeSettings", "serve", "serve a model over HTTP: unmask serve [MODEL]"),
    "generate": ("engine.commands", "GenerateSettings", "generate", "generate a text and watch the canvas fill"),
    "schedulers": (
        "engine.commands",
        "SchedulersSettings",
        "schedulers",
        "list the schedulers, their options and defaults",
    ),
    "eval": (
        "evals.commands",
        "EvalSettings",
        "evaluate",
        "measure accuracy, forward passes and speed of schedulers",
    ),
    "bench": ("evals.bench.command", "BenchSettings", "bench", "measure speed, offline and over HTTP"),
    "train-policy": ("policies.commands", "TrainPolicySettings", "train_policy", "learn which tokens to reveal"),
    "train-model": (
        "evals.commands",
        "TrainModelSettings",
        "train_model",
        "train the embedded model from nothing",
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; errors that the user can mend end in one sentence and exit code 1 or 2."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help"):
        print(_help())
    elif command in ("-V", "--version"):
        print(f"unmask {version('unmask')}")
    elif command not in COMMANDS:
        print(f"unmask: unknown command {command!r}; the commands are: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        _run(command, rest)


def _run(command: str, arguments: list[str]) -> None:
    from unmask.engine.errors import NotFiniteError, RequestError
    from unmask.engine.settings import parse_settings
    from unmask.models.errors import CheckpointError
    from unmask.schedulers import OptionError, UnknownSchedulerError

    if command == "serve" and arguments and not arguments[0].startswith("-"):
        arguments = ["--model", *arguments]
    room, settings, run, _ = COMMANDS[command]
    module = import_module(f"unmask.{room}")
    try:
        code = getattr(module, run)(parse_settings(getattr(module, settings), f"unmask {command}", arguments))
    except (CheckpointError, NotFiniteError, OptionError, RequestError, UnknownSchedulerError) as error:
        print(f"unmask {command}: {error.args[0]}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        code = 130
    if code:
        sys.exit(code)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, _, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unmask COMMAND ...   (unmask COMMAND --help says more)",
            "",
            *lines,
            "",
            "Every flag --some-flag can also be set as the environment variable UNMASK_SOME_FLAG.",
        ]
    )
