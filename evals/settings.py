"""The settings of `unmask eval` and `unmask train-model`."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from unmask import defaults
from unmask.evals.tasks import DATASETS, EMBEDDED, TASKS
from unmask.settings import BATCH_INVARIANT, INPUT_STATE, BlockLength, CommandSettings, ModelSettings, OutFile, Several

SWEEPS = sorted(file.stem for file in (Path(__file__).parent / "sweeps").glob("*.toml"))


class EvalSettings(ModelSettings):
    """Measure schedulers on held-out problems, one by one or a whole sweep of them. Give several values
    with commas, or repeat the flag."""

    GROUPS: ClassVar[dict[str, str]] = {
        "what to measure": "task scheduler sweep block_length max_tokens cache input_state problems seed raw",
        "results": "json_file plot",
        "batch": "rows batch_invariant",
        **ModelSettings.GROUPS,
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "unmask eval --task sudoku --scheduler topk,threshold:threshold=0.8",
        "unmask eval --block-length 32,full --problems 100 --plot out.png",
        "unmask eval --sweep heuristics --json out.json",
    )

    task: Several[str] = Field(
        (),
        description=f"tasks: {', '.join(TASKS)}, by default {' and '.join(EMBEDDED)}; or {', '.join(DATASETS)}, "
        "from the Hub, or from files as in gsm8k=PATH; sudoku:template=2 draws the prompts of one template alone",
    )
    scheduler: Several[str] = Field(
        (), description="schedulers, with options as name:option=value; by default all, without options"
    )
    sweep: str | None = Field(
        None,
        description=f"whole curves of schedulers: {', '.join(SWEEPS)}, or a TOML file like those. With "
        "--json an interrupted sweep continues where it stopped. Flags for tasks, lengths, problems and seed replace "
        "the file's",
    )
    block_length: Several[BlockLength] = Field((32,), description="block lengths; full is one block")
    max_tokens: int | None = Field(
        None, ge=1, description="length of the generation region; by default what the answers of a task need"
    )
    cache: Several[str] = Field(
        (defaults.CACHE,), description="caches: none, prefix, dual, dual:refresh=8, block, or auto"
    )
    input_state: Several[str] = Field((defaults.INPUT_STATE,), description=INPUT_STATE)
    problems: int = Field(500, ge=2, description="held-out problems per row of the table")
    seed: int = Field(0, description="draws the problems; another seed draws others")
    rows: int = Field(64, ge=1, description="problems that run side by side")
    batch_invariant: bool = Field(False, description=BATCH_INVARIANT)
    raw: bool = Field(False, description="ask without the chat template")
    json_file: OutFile | None = Field(
        None, alias="json", description="also write the results, one JSON object per line"
    )
    plot: Several[OutFile] = Field(
        (), description="also draw accuracy against forward passes there: files .png or .svg"
    )


class TrainModelSettings(CommandSettings):
    """Train the embedded model from nothing, or continue an interrupted run.

    llada-micro is a larger model of nearly all tasks, llada-trace and llada-clock are two whose solutions are traces;
    llada-micro and llada-trace want a GPU.
    """

    model: Literal["llada-nano", "llada-micro", "llada-trace", "llada-clock"] = Field(
        "llada-nano", description="what to train"
    )
    out: Path = Field(Path("runs/llada-nano"), description="folder of the checkpoint, the log and the training state")
    steps: int = Field(3200, ge=1, description="optimizer steps, each over one batch of every task")
    batch_size: int = Field(64, ge=1, description="problems per batch")
    learning_rate: float = Field(3e-3, gt=0, description="highest learning rate")
    seed: int = Field(0, description="seed of weights, problems and masks")
    save_every: int = Field(100, ge=1, description="steps between savings")
    residual: str | None = Field(
        None,
        description="train for the input state residual: own, where the model's own first forward gives what masks are "
        "fed, or a checkpoint that gives it and stays as it is. Name --out RCD-..., then residual is its default",
    )
    start: str | None = Field(None, description="a checkpoint to take the first weights from")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:1; auto is CUDA where there is a device")
    workers: int = Field(1, ge=0, description="processes that draw problems; a GPU needs about fifteen")
    compile: bool = Field(True, description="compile the network with torch.compile; faster, needs a C++ compiler")
    problems: int = Field(500, ge=0, description="held-out problems per row of the final card; 0 writes no card")
