"""The command `unmask train-policy`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from unmask.errors import UserError
from unmask.models.loading import load_configured
from unmask.policies.plot import plot_training
from unmask.policies.readme import write_readme
from unmask.policies.recipe import PolicyRecipe
from unmask.policies.run_state import LOG_FILE
from unmask.policies.settings import PAPER, TrainPolicySettings
from unmask.policies.train import PolicyTrainer
from unmask.settings import flag_of

SHOWN = ("reward", "accuracy", "passes", "entropy")
SHOWN_OVER = 0.9  # figures of the bar are running means, of which the past keeps this share


def train_policy(settings: TrainPolicySettings) -> None:
    """Run or resume, then measure the policy and write its card."""
    recipe = PolicyRecipe.of(settings)
    model = load_configured(settings)
    trainer = PolicyTrainer(recipe, model, settings.out, settings.rows)
    if trainer.is_main:
        print(_start(trainer, settings), file=sys.stderr)
    with _bar(trainer, settings.save_every) as show, _board(settings) as log:

        def tell(figures: dict[str, float]) -> None:
            show(figures)
            log(figures)

        trainer.run(settings.save_every, tell)
    if not trainer.is_main:
        return
    if settings.problems:
        print(f"measuring the policy on {settings.problems} held-out problems per row ...", file=sys.stderr)
        write_readme(settings.out, _command(settings), recipe, model, settings.problems)
        plot_training(settings.out / LOG_FILE, settings.out / "training.png")
    print(_end(settings))


@contextmanager
def _bar(trainer: PolicyTrainer, every: int) -> Iterator[Any]:
    """A progress bar with running means of the figures, and in a pipe one line per `every` batches.

    Processes other than the first show nothing.
    """
    console = Console(stderr=True)
    progress = Progress(
        BarColumn(bar_width=8),  # the whole fits 80 columns
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (trainer.is_main and console.is_terminal),
    )
    means: dict[str, float] = {}

    def show(figures: dict[str, float]) -> None:
        for name in SHOWN:
            if name in figures:
                means[name] = SHOWN_OVER * means.get(name, figures[name]) + (1 - SHOWN_OVER) * figures[name]
        text = " ".join(f"{name} {means[name]:.3g}" for name in SHOWN if name in means)
        progress.update(bar, completed=figures["batch"], figures=text)
        at_end = figures["batch"] == trainer.total
        if trainer.is_main and not console.is_terminal and (at_end or figures["batch"] % every == 0):
            print(f"batch {figures['batch']} of {trainer.total}: {text}", file=sys.stderr, flush=True)

    with progress:
        bar: TaskID = progress.add_task("train", total=trainer.total, completed=trainer.batch, figures="")
        yield show


@contextmanager
def _board(settings: TrainPolicySettings) -> Iterator[Any]:
    """Log for TensorBoard where that was asked for."""
    if not settings.tensorboard:
        yield lambda figures: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs TensorBoard; pip install tensorboard") from None
    with SummaryWriter(settings.out) as writer:

        def log(figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, figures["batch"])

        yield log


def _command(settings: TrainPolicySettings) -> str:
    """The command line that makes the same policy again."""
    words = ["unmask", "train-policy"]
    usual = {name: field.default for name, field in TrainPolicySettings.model_fields.items()}
    if settings.recipe == "paper":
        usual |= PAPER
    for name, value in settings.model_dump().items():
        if (value == usual[name] and name != "recipe") or (name == "recipe" and value == "default"):
            continue
        if isinstance(value, bool):
            words.append(flag_of(name) if value else "--no-" + flag_of(name)[2:])
        else:
            words += [flag_of(name), ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _start(trainer: PolicyTrainer, settings: TrainPolicySettings) -> str:
    """What is about to happen, in one sentence."""
    where = f"{settings.out}"
    if trainer.batch == trainer.total:
        return f"the run in {where} is complete: all {trainer.total} batches are done"
    if trainer.batch:
        return f"continuing the run in {where} at batch {trainer.batch + 1} of {trainer.total}"
    warm = f", {trainer.recipe.warm} of them a warm start" if trainer.recipe.warm else ""
    return f"training in {where}: {trainer.total} batches{warm}; a run that is killed continues with the same command"


def _end(settings: TrainPolicySettings) -> str:
    """What was written, and how to use it."""
    out, length = settings.out, settings.block_length[0]
    written = "model.safetensors, policy.json" + (", README.md, training.png" if settings.problems else "")
    lines = [f"wrote {written} to {out}"]
    if settings.problems:
        lines += _results(out)
    spec = shlex.quote(f"policy:policy={out}")
    flags = f" --scheduler {spec} --block-length {64 if length == 'full' else length}"
    allowed = shlex.quote(str(out.resolve()))
    return "\n".join(
        [
            *lines,
            "use it:",
            f"  unmask generate 'Ann has 5 coins. Ann finds 7 more. How many coins does Ann have?'{flags}",
            f"  unmask eval --scheduler {spec},threshold --block-length {length}",
            f"  unmask serve --allow-policy {allowed}",
        ]
    )


def _results(out: Path) -> list[str]:
    """The table of the card."""
    return [line for line in (out / "README.md").read_text().splitlines() if line.startswith("| ")]
