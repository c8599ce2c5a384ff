"""The recipe: its loss against numbers worked by hand, its batches, exact resuming, and the checkpoint it writes."""

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.evals.recipe.card import SCHEDULERS, markdown_table
from unmask.evals.recipe.data import Batch, Batches
from unmask.evals.recipe.tokenizer import build_tokenizer, token_id
from unmask.evals.recipe.train import Recipe, Trainer, draw_masks, masked_diffusion_loss
from unmask.evals.tasks import TASKS
from unmask.models.loading import load_model
from unmask.schedulers import parse_scheduler_text

ROUNDING = 1e-6


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return build_tokenizer()


def test_the_loss_is_the_cross_entropy_of_masked_tokens_over_t() -> None:
    batch = Batch(torch.tensor([[0, 1, 0], [1, 1, 1]]), torch.tensor([[False, True, True], [True, True, True]]))
    masked = torch.tensor([[False, True, False], [True, False, True]])
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)], [9.0, 0.0]], [[0.0, 0.0], [5.0, 5.0], [math.log(7), 0.0]]])
    first = -math.log(3 / 4) / 0.5 / 2  # one masked token of two in the answer, t = 0.5
    second = (-math.log(1 / 2) - math.log(1 / 8)) / 0.25 / 3
    loss = masked_diffusion_loss(logits, batch, masked, torch.tensor([0.5, 0.25]))
    assert loss.item() == pytest.approx((first + second) / 2, abs=ROUNDING)


def test_masks_fall_on_answers_in_proportion_to_t() -> None:
    answer = torch.zeros(512, 100, dtype=torch.bool)
    answer[:, 20:] = True
    masked, t = draw_masks(Batch(torch.zeros(512, 100, dtype=torch.long), answer), torch.Generator().manual_seed(0))
    assert not masked[:, :20].any()
    assert ((masked.sum(1) / 80 - t).abs() < 0.25).all()
    assert t.sort().values.diff().max() < 2 / 512  # evenly spread


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_holds_prompts_then_answers_then_end_of_text(tokenizer, name: str) -> None:  # type: ignore[no-untyped-def]
    task = TASKS[name]
    for batch in islice(Batches(task, tokenizer, 8, seed=0), 6):
        for tokens, answer in zip(batch.tokens, batch.answer, strict=True):
            prompt, completion = tokens[~answer].tolist(), tokens[answer].tolist()
            assert "How many" in tokenizer.decode(prompt) or "Sudoku" in tokenizer.decode(prompt)
            ends = {token_id(tokenizer, "eos_token"), token_id(tokenizer, "end_of_turn")}
            written = next(i for i, token in enumerate(completion) if token in ends)
            assert written < task.max_tokens
            assert set(completion[written + 1 :]) <= {token_id(tokenizer, "eos_token")}
            assert ends.isdisjoint(completion[:written])


def train(out: Path, stop_after: int | None = None) -> list[dict[str, object]]:
    """Six small steps, saved every second one, killed after some if asked; returns the log."""
    out.mkdir(exist_ok=True)
    trainer = Trainer(Recipe(steps=6, batch_size=2), out, compile_network=False)
    update = trainer.update

    def killed(batches: dict[str, Batch]) -> dict[str, float]:
        if trainer.step == stop_after:
            raise KeyboardInterrupt
        return update(batches)

    trainer.update = killed  # type: ignore[method-assign]
    trainer.run(save_every=2)
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop_after=3)
    resumed = train(tmp_path / "killed")
    assert [line["step"] for line in resumed] == [1, 2, 3, 3, 4, 5, 6]
    assert [line["loss"] for line in resumed[3:]] == [line["loss"] for line in whole[2:]]
    one, other = (load_model(str(tmp_path / name), device="cpu").network.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="go on with the same settings or choose another --out"):
        Trainer(Recipe(steps=6, batch_size=3), tmp_path / "killed", compile_network=False)


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    recipe = Recipe(steps=1000, learning_rate=1.0)
    assert recipe.rate(0) == pytest.approx(0.01)
    assert recipe.rate(99) == recipe.rate(500) == recipe.rate(749) == 1.0
    assert recipe.rate(875) == pytest.approx(0.5)
    assert recipe.rate(1000) == 0.0


def test_the_cards_schedulers_exist_and_its_table_names_them() -> None:
    from unmask.evals.measure import Measurement

    specs = [parse_scheduler_text(text) for text in SCHEDULERS]
    what = {"model": "m", "dtype": "float32", "task": "sudoku", "block_length": 32, "max_tokens": 48}
    counted: dict[str, Any] = {
        **what,
        "cache": "none",
        "seed": 0,
        "problems": 4,
        "raw": False,
        "accuracy": 0.75,
        "forward_passes": 9.5,
    }
    bounds = {f"{figure}_{end}": 0.0 for figure in ("accuracy", "passes") for end in ("low", "high")}
    rest: dict[str, Any] = bounds | {"tokens_per_second": 1.0, "local_ar": 0.5, "global_ar": 0.5}
    results = [Measurement(scheduler=spec.name, options=spec.values, **counted, **rest) for spec in specs]
    table = markdown_table(results).splitlines()
    assert table[0] == "| scheduler | sudoku, block 32 |"
    assert [row.split("`")[1] for row in table[2:]] == list(SCHEDULERS)
    assert "75.0% in 9.5" in table[2]
