"""The files of a training run beside the policy: the state that resuming needs, and the log."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch.optim import Optimizer

from unmask.policies.network import PolicyNetwork
from unmask.policies.recipe import CannotLearnError, PolicyRecipe

STATE_FILE, LOG_FILE = "training.pt", "train.jsonl"


def save_state(out: Path, recipe: PolicyRecipe, batch: int, network: PolicyNetwork, optimizer: Optimizer) -> None:
    """Write what resuming after `batch` batches needs. A kill leaves the old state or the new one, never half."""
    state = {
        "recipe": asdict(recipe),
        "batch": batch,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    partial = out / f"{STATE_FILE}.partial"
    torch.save(state, partial)
    partial.replace(out / STATE_FILE)


def load_state(out: Path, recipe: PolicyRecipe, network: PolicyNetwork, optimizer: Optimizer) -> int:
    """Load the saved state, if there is one; returns the batches that are done. Raises CannotLearnError."""
    if not (out / STATE_FILE).exists():
        return 0
    state = torch.load(out / STATE_FILE, weights_only=True)
    if changed := [name for name, value in asdict(recipe).items() if state["recipe"].get(name) != value]:
        raise CannotLearnError(
            f"{out} holds a run with another {', '.join(changed)}; use the same settings or choose another --out"
        )
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    batch: int = state["batch"]
    return batch


def cut_log(out: Path, batches: int) -> None:
    """Remove what was logged after the last saving."""
    log = out / LOG_FILE
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("".join(line + "\n" for line in lines[:batches]))


def append_log(out: Path, figures: dict[str, float]) -> None:
    """Log the figures of one batch."""
    with (out / LOG_FILE).open("a") as file:
        file.write(json.dumps(figures) + "\n")
