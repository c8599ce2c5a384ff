"""The command `unmask completion`: a script for the shell, made by shtab from the parsers of all commands."""

import shtab

from unmask.arguments import Parser, make_parser
from unmask.cli import COMMANDS, settings_of
from unmask.evals.tasks import DATASETS, TASKS
from unmask.schedulers import scheduler_names
from unmask.settings import CompletionSettings


def completion(settings: CompletionSettings) -> None:
    """Print the script. It knows the schedulers that are installed when it is printed."""
    print(shtab.complete(_parser(), shell=settings.shell))


def _parser() -> Parser:
    """One parser for the whole command line; it only describes, and reads nothing."""
    parser = Parser(prog="unmask")
    parser.add_argument("-V", "--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers()
    names = {"scheduler": scheduler_names(), "default_scheduler": scheduler_names(), "task": [*TASKS, *DATASETS]}
    for name, command in COMMANDS.items():
        own = make_parser(settings_of(name), f"unmask {name}", choices=True)
        for action in own._actions:
            action.choices = names.get(action.dest, action.choices)
            if action.metavar in ("PATH", "MODEL"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        commands.add_parser(name, help=command.help, parents=[own], add_help=False)
    return parser
