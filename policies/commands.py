"""The command `unmask train-policy`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from unmask.engine.settings import ModelSettings
from unmask.evals.sweep import BlockLength
from unmask.evals.tasks import TASKS, TaskError, find_task
from unmask.models.loading import load_model
from unmask.policies.card import write_card
from unmask.policies.plot import plot_training
from unmask.policies.recipe import Recipe
from unmask.policies.train import LOG_FILE, CannotLearnError, Trainer
from unmask.schedulers import OptionError

SHOWN = ("reward", "accuracy", "passes", "entropy")
SHOWN_OVER = 0.9  # figures of the bar are running means, of which the past keeps this share


class TrainPolicySettings(ModelSettings):
    """Learn which tokens to reveal, by reinforcement learning, or go on where an interrupted run stopped.

    With `accelerate launch -m unmask train-policy ...` several processes and machines share the work.
    """

    out: Path = Field(Path("runs/policy"), description="folder of the policy, its card, the log and the training state")
    task: list[str] = Field(default_factory=lambda: list(TASKS), description=f"tasks: {', '.join(TASKS)}; default all")
    block_length: list[BlockLength] = Field(
        [32], min_length=1, description="tokens a block; full is one block; several mix"
    )
    observation: Literal["generation", "block"] = Field(
        "generation", description="what the policy sees: the generation region, or the block, which suits every cache"
    )
    mode: Literal["bernoulli", "dpls"] = Field("bernoulli", description="how choices are drawn from logits")
    alpha: float = Field(1.0, ge=0, description="what speed is worth in the reward; 0 is nothing")
    reward: Literal["multiplicative", "additive"] = Field("multiplicative", description="how speed enters the reward")
    any_speed: bool = Field(False, description="train one policy for all speeds, which is told the wanted one")
    confidence: Literal["probability", "log-odds"] = Field(
        "probability", description="how the policy is told of the model's confidence; log-odds tell 0.99 from 0.999"
    )
    teacher: list[str] = Field(
        [], description="schedulers to learn from in hindsight; by default it learns which proposals will prove right"
    )
    remask: bool = Field(False, description="let the policy take back what it revealed; for --mode bernoulli")
    tokens: int = Field(0, ge=0, description="token ids that the policy tells apart; 0, as the paper's, reads none")
    verification: int = Field(
        0, ge=0, description="first batches, in which a policy that reads tokens learns which of them go together"
    )
    initial: str = Field("", description="policy to go on from: a shipped one, or a folder")
    steering: bool = Field(False, description="add an expert's rollout to each group, as the paper for full diffusion")
    imitation: int = Field(40, ge=0, description="batches of supervised warm start; the paper has none")
    start: float = Field(-2.0, description="logit of all positions before training")
    group: int = Field(8, ge=1, description="rollouts of one problem that are compared with each other")
    prompts: int = Field(16, ge=1, description="problems a batch and process")
    batches: int = Field(1000, ge=1, description="batches of rollouts")
    updates: int = Field(2, ge=1, description="updates on each batch")
    epsilon: float = Field(0.5, gt=0, lt=1, description="how far an update may move the odds of a choice")
    learning_rate: float = Field(3e-4, gt=0, description="highest learning rate; the paper's is 3e-5")
    warmup: int = Field(20, ge=1, description="batches until the learning rate is at its highest")
    seed: int = Field(0, description="of weights, problems and choices")
    rows: int = Field(64, ge=1, description="rollouts that run side by side")
    save_every: int = Field(50, ge=1, description="batches between savings")
    tensorboard: bool = Field(False, description="also log for TensorBoard, which must be installed")
    problems: int = Field(500, ge=0, description="held-out problems a cell of the final card; 0 writes no card")


NOT_OF_THE_RECIPE = {"out", "revision", "device", "dtype", "compile", "memory_fraction", "rows", "save_every"}
NOT_OF_THE_RECIPE |= {"quantization", "tensorboard", "problems", "task", "block_length", "teacher"}


def train_policy(settings: TrainPolicySettings) -> None:
    """Run or resume, then write the card with what the policy came to."""
    model = load_model(
        settings.model, settings.revision, settings.device, settings.dtype, settings.compile, settings.quantization
    )
    lengths = tuple(settings.block_length)
    teachers = tuple(settings.teacher)
    others = settings.model_dump(exclude=NOT_OF_THE_RECIPE)
    recipe = Recipe(tasks=tuple(settings.task), block_length=lengths, teacher=teachers, **others)
    try:
        for name in settings.task:
            find_task(name)
        trainer = Trainer(recipe, model, settings.out, settings.rows)
        with _bar(trainer) as show, _board(settings) as log:

            def tell(figures: dict[str, float]) -> None:
                show(figures)
                log(figures)

            trainer.run(settings.save_every, tell)
    except (CannotLearnError, OptionError, TaskError) as error:
        raise SystemExit(f"unmask train-policy: {error}") from None
    if settings.problems and trainer.is_main:
        write_card(settings.out, _command(settings), recipe, model, settings.problems)
        plot_training(settings.out / LOG_FILE, settings.out / "training.png")


@contextmanager
def _bar(trainer: Trainer) -> Iterator[Any]:
    """A progress bar with running means of the figures; nothing in processes but the first."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not trainer.is_main,
    )
    means: dict[str, float] = {}

    def show(figures: dict[str, float]) -> None:
        for name in SHOWN:
            if name in figures:
                means[name] = SHOWN_OVER * means.get(name, figures[name]) + (1 - SHOWN_OVER) * figures[name]
        text = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        progress.update(bar, completed=figures["batch"], figures=text)

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
        raise SystemExit("unmask train-policy: --tensorboard needs TensorBoard; pip install tensorboard") from None
    with SummaryWriter(settings.out) as writer:

        def log(figures: dict[str, float]) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, figures["batch"])

        yield log


def _command(settings: TrainPolicySettings) -> str:
    """The command line that makes the same policy again."""
    words = ["unmask train-policy"]
    for name, value in settings.model_dump(exclude_defaults=True).items():
        flag = "--" + name.replace("_", "-")
        words.append(
            flag if value is True else f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}"
        )
    return " ".join(words)
