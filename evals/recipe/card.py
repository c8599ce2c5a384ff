"""The model card of the embedded checkpoint: what it is, how it was made, and what each scheduler makes of it."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from unmask.evals.measure import Measurement, label
from unmask.evals.recipe.blueprints import BLUEPRINTS, NANO
from unmask.evals.recipe.train import Recipe
from unmask.models.architecture import Architecture
from unmask.models.transformer import MaskedTransformer

# Every scheduler at its defaults, and the fastest settings, at which too much is revealed at once.
SCHEDULERS = (
    "topk",
    "margin",
    "entropy",
    "random",
    "threshold",
    "threshold:threshold=0.5",
    "factor",
    "topk:n=4",
    "random:n=4",
)

CARD = """---
license: apache-2.0
library_name: unmask
pipeline_tag: text-generation
tags: [diffusion-lm, masked-diffusion, llada]
---

# {name}

A masked diffusion language model of {parameters:.1f} million parameters in LLaDA's own Hugging Face format, small
enough for a laptop's CPU and real enough that every claim about an unmasking scheduler can be graded. It was taught
these tasks and has seen no other text:

{tasks}

A problem is asked as a user message, or raw and followed by an empty line.

## How it was made

`{command}` made it from {origin}. {layers} layers of width {width}, {heads}
heads, {steps} optimizer steps of {rows} problems, {problems:,} problems in all. {cost}

Problems come from seeded generators (`evals/tasks/`). Whether a prompt may be trained on is decided by a checksum of
its text, so no seed can draw, for evaluation, a prompt that was trained on.

## What schedulers make of it

{measured}

{table}

Each cell is accuracy and mean forward passes. A block length of {full} is full
diffusion. A request ends when its end of text is settled; later blocks are never computed.
"""


def write_card(folder: Path, recipe: Recipe, results: Sequence[Measurement], cost: str, how: str) -> None:
    """Write README.md. `cost` says what training took and on what machine, `how` what the table was measured with."""
    blueprint = BLUEPRINTS[recipe.model]
    config, tasks, rows = blueprint.config, blueprint.tasks, sum(blueprint.sizes(recipe.batch_size).values())
    card = CARD.format(
        name=blueprint.name,
        tasks="\n".join(f"- {name}: {task.description}" for name, task in tasks.items()),
        command=" ".join(["unmask train-model", *_flags(recipe)]),
        origin="nothing: tokenizer, problems and weights" if recipe.start is None else f"the weights of {recipe.start}",
        parameters=parameter_count(blueprint.architecture) / 1e6,
        layers=config["n_layers"],
        width=config["d_model"],
        heads=config["n_heads"],
        steps=recipe.steps,
        rows=rows,
        problems=recipe.steps * rows,
        cost=cost,
        measured=how,
        table=markdown_table(results),
        full=" or ".join(f"{task.max_tokens} ({name})" for name, task in tasks.items()),
    )
    (folder / "README.md").write_text(card)


def _flags(recipe: Recipe) -> list[str]:
    """The flags of the command that are not its defaults, but for numbers."""
    model = None if recipe.model == NANO.name else recipe.model
    given = {"model": model, "residual": recipe.residual, "start": recipe.start}
    return [f"--{name} {value}" for name, value in given.items() if value is not None]


def parameter_count(architecture: Architecture) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in MaskedTransformer(architecture).parameters())


def training_cost(folder: Path) -> str:
    """Minutes of the steps in the log, the saving and compiling between them left out."""
    seconds = [json.loads(line)["seconds"] for line in (folder / "train.jsonl").read_text().splitlines()]
    return f"The steps took {sum(seconds) / 60:.0f} minutes."


def markdown_table(results: Sequence[Measurement]) -> str:
    """Accuracy and forward passes by scheduler, with a pair of columns for each task and block length."""
    columns = sorted({(r.task, r.block_length) for r in results}, key=lambda c: (c[0] != "word-problems", c[1]))
    cells = {(label(r), r.task, r.block_length): f"{r.accuracy:.1%} in {r.forward_passes:.1f}" for r in results}
    head = ["scheduler", *(f"{task}, block {length}" for task, length in columns)]
    rows = [
        [f"`{name}`", *(cells.get((name, *column), "") for column in columns)]
        for name in dict.fromkeys(label(r) for r in results)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
