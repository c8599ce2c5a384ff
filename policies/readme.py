"""The card of a trained policy, its README.md: use, training, cost, and measured results."""

import json
from itertools import product
from pathlib import Path

import torch

from unmask.evals.measure import Cell, measure
from unmask.evals.tasks import Task, find_task
from unmask.models.loading import Model
from unmask.policies.recipe import PolicyRecipe
from unmask.policies.run_state import LOG_FILE
from unmask.schedulers import parse_scheduler

SPEEDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

TEXT = """# {name}

A policy for `{model}` that chooses which masked tokens to reveal, learned as in *Learning Unmasking Policies for
Diffusion Language Models* (arXiv 2512.09106){deviations}.

{use}

It sees {observation}. It was trained on {tasks}, {block}.

## How it was made

```
{command}
```

{cost} Training problems are those of the tasks' train split; what follows was measured on held-out ones.

## What it came to

{problems} held-out problems a cell, mode `likely`, in {dtype} on {device}.

| task | block length | speed | accuracy | forward passes |
|---|---|---|---|---|
{table}

## Settings

```json
{settings}
```
"""


def write_readme(out: Path, command: str, recipe: PolicyRecipe, model: Model, problems: int) -> None:
    """Measure the policy in `out` and write its README.md."""
    tasks = [find_task(name) for name in recipe.tasks]
    speeds = SPEEDS if recipe.any_speed else (0.5,)
    cells = product(tasks, recipe.block_length, speeds)
    rows = [_row(out, model, problems, *cell) for cell in cells]
    speed = (
        "`speed` sets how many passes it takes." if recipe.any_speed else f"Speed was worth {recipe.alpha:g} (alpha)."
    )
    whole = recipe.observation == "generation"
    text = TEXT.format(
        name=out.resolve().name,
        model=model.name,
        deviations=", with a supervised warm start" if recipe.warm else "",
        use=f"Use it as `--scheduler policy:policy={out}`; a request to a server names its folder, which\n"
        f"`--allow-policy` must allow. {speed}",
        observation="the whole generation region, and so needs the cache `none`" if whole else "the current block",
        tasks=" and ".join(f"`{name}`" for name in recipe.tasks),
        block=" and ".join(
            "in one block, full diffusion" if length == "full" else f"in blocks of {length}"
            for length in recipe.block_length
        ),
        command=command,
        cost=_cost(out, recipe),
        problems=problems,
        dtype=model.precision,
        device=model.device,
        table="\n".join(rows),
        settings=json.dumps(vars(recipe), indent=1),
    )
    (out / "README.md").write_text(text)


def _row(out: Path, model: Model, problems: int, task: Task, block_length: int | str, speed: float) -> str:
    spec = parse_scheduler("policy", {"policy": str(out), "speed": speed})
    length = task.max_tokens if isinstance(block_length, str) else block_length
    found = measure(model, Cell(task, spec, length, problems))
    return f"| {task.name} | {length} | {speed:g} | {found.accuracy:.1%} | {found.forward_passes:.2f} |"


def _cost(out: Path, recipe: PolicyRecipe) -> str:
    lines = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    minutes = sum(line["seconds"] for line in lines) / 60
    threads = f"a CPU with {_count(torch.get_num_threads(), 'thread')}"
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else threads
    rollouts = recipe.batches * recipe.prompts * recipe.group
    return f"{_count(round(minutes), 'minute')} on {where}, {rollouts:,} rollouts in {recipe.batches:,} batches."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
