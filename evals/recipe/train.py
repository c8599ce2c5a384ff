"""`unmask train-model`: train the embedded model, or a larger one, from nothing, in LLaDA's own format.

The objective is LLaDA's for fine-tuning (arXiv 2502.09992, equation 5): draw t in (0, 1), mask each answer token
with probability t, and weight the cross-entropy of the masked ones by 1/t.

    loss = mean over sequences of ( 1/L * sum over masked i of -log p(x_i | canvas) / t )

Where this departs from LLaDA's recipe:
1. No pre-training: question and answer are learned together, in one stage, from generated problems.
2. t is spread evenly over a batch (Kingma et al., arXiv 2107.00630, appendix I.1), which tames the variance of 1/t.
3. Matrices inside the blocks are updated by Muon, everything else by AdamW.
4. The learning rate is constant, then falls linearly to zero over the last part of the run.
5. A recipe with `residual` feeds what a first forward thought in place of masks: `evals/recipe/residual.py`.
6. A blueprint with a `block_share` masks some rows as decoding by blocks leaves them: `draw_masks`.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from unmask.evals.recipe.blueprints import BLUEPRINTS, NANO
from unmask.evals.recipe.checkpoint import save_checkpoint
from unmask.evals.recipe.data import Batch, Steps, load
from unmask.evals.recipe.residual import ResidualInput
from unmask.evals.recipe.tokenizer import build_tokenizer, token_id
from unmask.models.errors import CheckpointError
from unmask.models.loading import load_model
from unmask.models.transformer import MaskedTransformer

WARMUP_STEPS = 100
DECAY_SHARE = 0.25  # of the steps
INITIAL_STD = 0.02
BY_TOKEN = ("embed.weight", "head.weight")  # have a row for each token of the vocabulary
STATE_FILE = "training.pt"
LOG_EVERY = 20  # steps; to read a loss is to wait for the device


@dataclass(frozen=True)
class Recipe:
    """What decides the weights. Each step sees `batch_size` problems of a task, or the share of it that the blueprint
    names; `model` names the blueprint.

    residual  own, or the checkpoint of the reference; None trains with plain masks
    start     the checkpoint whose weights are the first; None draws them
    """

    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0
    model: str = NANO.name
    residual: str | None = None
    start: str | None = None

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, constant, linear decay to zero."""
        warmup = min(1.0, (step + 1) / WARMUP_STEPS)
        decay = min(1.0, (self.steps - step) / (DECAY_SHARE * self.steps))
        return self.learning_rate * warmup * decay


def initialise(network: MaskedTransformer) -> None:
    """Normal weights; projections into the residual stream are scaled down by its depth, as in GPT-2."""
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            depth = math.sqrt(2 * network.architecture.layers) if name.endswith(("o.weight", "down.weight")) else 1.0
            torch.nn.init.normal_(parameter, std=INITIAL_STD / depth)


def start_from(checkpoint: str, network: MaskedTransformer, tokenizer: Tokenizer) -> None:
    """Take the weights of a checkpoint of the same shape. Its vocabulary may be another: rows of the embedding and of
    the head go by the text of their tokens, and a token that the checkpoint lacks keeps what it has.

    Raises CheckpointError.
    """
    loaded = load_model(checkpoint, device="cpu", dtype="float32")
    if replace(loaded.network.architecture, vocab_rows=network.architecture.vocab_rows) != network.architecture:
        raise CheckpointError(f"checkpoint {checkpoint!r} has another shape than what is trained; start from its like")
    weights, own = loaded.network.state_dict(), network.state_dict()
    known = {here: loaded.tokenizer.token_id(text) for text, here in tokenizer.get_vocab().items()}
    here, there = torch.tensor([(here, there) for here, there in known.items() if there is not None]).T
    for name in BY_TOKEN:
        weights[name] = own[name].index_copy(0, here, weights[name][there])
    network.load_state_dict({name: weights[name] for name in own})


def masked_diffusion_loss(logits: Tensor, batch: Batch) -> Tensor:
    """What each row adds to the objective above (B,), of logits (B, T, V)."""
    cross_entropy = F.cross_entropy(logits.float().flatten(0, 1), batch.tokens.flatten(), reduction="none")
    return (cross_entropy.view_as(batch.weight) * batch.weight).sum(1)


class Trainer:
    """The state of one run: network, optimizers, step. It goes on from the state saved in `out`, if there is one."""

    def __init__(self, recipe: Recipe, out: Path, device: torch.device, compile_network: bool, workers: int = 0):
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.step = recipe, out, 0
        self._blueprint = BLUEPRINTS[recipe.model]
        self.tokenizer = build_tokenizer(self._blueprint)
        sizes = self._blueprint.sizes(recipe.batch_size)
        tasks, widths, share = self._blueprint.tasks, self._blueprint.widths, self._blueprint.block_share
        self._steps = Steps(tasks, sizes, widths, self.tokenizer, recipe.seed, share)
        self._workers, self._device = workers, device
        self._rows = torch.tensor(list(sizes.values()), device=device)  # of a batch, by task
        self._losses: list[Tensor] = []  # of the steps that are not yet recorded
        self._recorded = time.perf_counter()
        self.network = MaskedTransformer(self._blueprint.architecture)
        initialise(self.network)
        if recipe.start is not None:
            start_from(recipe.start, self.network, self.tokenizer)
        self.network.to(device)
        mask_id = token_id(self.tokenizer, "mask_token")
        self._residual = ResidualInput(recipe.residual, self.network, mask_id, device) if recipe.residual else None
        if compile_network:  # one block at a time: they share compiled code, which is made in a fraction of the time
            for block in self.network.blocks:
                block.compile(dynamic=True)
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and name.startswith("blocks")]
        inside = {id(p) for p in matrices}
        others = [p for p in self.network.parameters() if id(p) not in inside]
        self.optimizers: tuple[Optimizer, ...] = (
            Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, betas=(0.9, 0.98), weight_decay=recipe.weight_decay),
        )
        if (out / STATE_FILE).exists():
            self._resume()

    def run(self, save_every: int) -> None:
        """Train from the current step to the last, saving as it goes."""
        with self._progress() as progress:
            bar = progress.add_task("train", total=self.recipe.steps, completed=self.step, loss="")
            pin = self._device.type == "cuda"
            for batch in load(self._steps, self.step, self.recipe.steps, self._workers, pin):
                self._losses.append(self.update(batch))
                last = self.step == self.recipe.steps
                if self.step % LOG_EVERY == 0 or self.step % save_every == 0 or last:
                    losses = self._record()
                    progress.update(bar, completed=self.step, loss=f"{sum(losses) / len(losses):.3f}")
                if self.step % save_every == 0 or last:
                    self.save()

    def update(self, batch: Batch) -> Tensor:
        """One optimizer step; returns the mean loss of each task's rows (tasks,), which nobody waits for."""
        batch = Batch(*(part.to(self._device, non_blocking=True) for part in batch))
        with torch.autocast(self._device.type, torch.bfloat16):
            given = None if self._residual is None else self._residual.given(self.network, batch.canvas)
            logits = self.network.logits(batch.canvas, given)
        rows = masked_diffusion_loss(logits, batch)
        rows.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.rate(self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        sums = rows.new_zeros(len(self._rows)).index_add_(0, batch.task, rows.detach())
        return sums * len(batch.task) / self._rows

    def save(self) -> None:
        """Write the checkpoint and what resuming needs. A kill leaves the old state or the new one, never half."""
        save_checkpoint(self._blueprint, self.network, self.tokenizer, self.out)
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.out / f"{STATE_FILE}.partial"
        torch.save(state, partial)
        partial.replace(self.out / STATE_FILE)

    def _resume(self) -> None:
        """Go on from the saved state. The number of steps may be extended; anything else must be as it was."""
        state = torch.load(self.out / STATE_FILE, map_location=self._device, weights_only=True)
        before = {**asdict(Recipe(self.recipe.steps)), **state["recipe"], "steps": self.recipe.steps}
        if before != asdict(self.recipe):
            raise ValueError(
                f"{self.out} holds a run of {state['recipe']}; go on with the same settings or choose another --out"
            )
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _record(self) -> list[float]:
        """Write a line for each step since the last was written; returns the losses of the newest step."""
        losses: list[list[float]] = torch.stack(self._losses).tolist()
        seconds = (time.perf_counter() - self._recorded) / len(losses)
        with (self.out / "train.jsonl").open("a") as file:
            for step, loss in enumerate(losses, self.step - len(losses) + 1):
                named = dict(zip(self._blueprint.tasks, loss, strict=True))
                line = {"step": step, "loss": named, "rate": self.recipe.rate(step - 1), "seconds": round(seconds, 4)}
                file.write(json.dumps(line) + "\n")
        self._losses, self._recorded = [], time.perf_counter()
        return losses[-1]

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
        )
