"""Policy training: losses against numbers worked by hand, rollouts, exact resuming, several processes, refusals."""

import json
import math
import os
import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.live import PATIENCE as PROCESS_PATIENCE
from unmask import cli, weights
from unmask.arguments import parse_settings
from unmask.engine import Engine, Request
from unmask.evals.prompts import prompt_ids
from unmask.evals.tasks import TASKS
from unmask.models.loading import Model, load_model
from unmask.policies.commands import train_policy
from unmask.policies.network import PolicyNetwork, PolicyShape
from unmask.policies.objective import (
    additive_reward,
    advantages,
    clipped_loss,
    imitation_loss,
    mixed,
    multiplicative_reward,
    step_weights,
)
from unmask.policies.observation import Observation
from unmask.policies.recipe import CannotLearnError, PolicyRecipe
from unmask.policies.rollout import Episode, RecordingScheduler, Rollouts, log_likelihood, roll_out
from unmask.policies.run_state import LOG_FILE
from unmask.policies.settings import PAPER, TrainPolicySettings
from unmask.policies.speeds import SHIFTS, shifts_of_speeds
from unmask.policies.store import WEIGHTS, PolicyConfig, load_policy
from unmask.policies.train import PATIENCE, PolicyTrainer
from unmask.policies.warm_start import REPLACED, followed, replaced
from unmask.schedulers import OptionError, parse_scheduler, parse_scheduler_text

ROUNDING = 1e-6
SUDOKU = TASKS["sudoku"]
BOTH = ("sudoku", "word-problems")
SMALL = PolicyRecipe.of(
    TrainPolicySettings(recipe="paper", task=BOTH, batches=3, block_length=("full",), group=3, prompts=2, imitation=1)
)


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model("llada-nano", device="cpu", dtype="float32")


def test_rewards_by_hand() -> None:
    correct, steps, length = torch.tensor([True, True, False]), torch.tensor([1, 5, 1]), torch.tensor([10, 10, 10])
    assert multiplicative_reward(correct, steps, length, 2.0).tolist() == pytest.approx([1.0, 0.36, 0.0])
    assert multiplicative_reward(correct, steps + 20, length, 2.0).tolist() == pytest.approx([0.01, 0.01, 0.0])
    assert multiplicative_reward(correct, steps, length, 0.0).tolist() == [1.0, 1.0, 0.0]
    assert additive_reward(correct, steps, length, 2.0).tolist() == pytest.approx([0.8, 0.0, -0.2])


def test_advantages_are_taken_within_groups_and_not_scaled() -> None:
    assert advantages(torch.tensor([1.0, 0.0, 0.5, 10.0, 10.0, 10.0]), 3).tolist() == [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]


def test_steps_of_long_trajectories_count_less() -> None:
    assert step_weights(torch.tensor([0, 0, 0, 0, 1]), 2).tolist() == pytest.approx([1 / 8] * 4 + [1 / 2])


def test_the_loss_is_clipped_by_hand() -> None:
    old = torch.zeros(4)
    new = torch.tensor([2.0, 2.0, 0.5, 1.2]).log().requires_grad_(True)
    advantage, weight = torch.tensor([1.0, -1.0, 1.0, 1.0]), torch.full((4,), 0.25)
    loss = clipped_loss(new, old, advantage, weight, epsilon=0.5)
    assert loss.item() == pytest.approx(-(1.5 - 2.0 + 0.5 + 1.2) / 4)
    loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([0.0, 0.5, -0.125, -0.3])  # nothing moves what is beyond the clip


def test_an_experts_choice_stays_possible() -> None:
    likelihood = torch.tensor([-1000.0, math.log(0.5), math.log(0.5)])
    found = mixed(likelihood, torch.tensor([True, True, False]), group=8)
    assert found.exp().tolist() == pytest.approx([1 / 9, 8 / 9 * 0.5 + 1 / 9, 0.5])


def test_imitation_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3), 7.0]])
    eligible, right = torch.tensor([[True, True, False]]), torch.tensor([[True, False, False]])
    expected = -(math.log(1 / 2) + math.log(1 / 4)) / 2
    assert imitation_loss(logits, eligible, right.float()).item() == pytest.approx(expected, abs=ROUNDING)


def test_replaced_tokens_are_those_of_other_places_and_are_not_wanted() -> None:
    steps, width = 400, 12
    tokens = torch.arange(steps * width).view(steps, width)
    eligible = torch.arange(width).expand(steps, -1) < 9
    zeros = torch.zeros(steps)
    shown = (eligible, torch.ones(steps, width, 1), zeros, zeros, eligible, tokens, tokens, eligible)
    seen = Observation(*shown, hidden=torch.ones(steps, width, 3), eligible=eligible)
    wanted = (torch.arange(width) % 2).float().expand(steps, -1)
    changed, still = replaced(seen, wanted, torch.Generator().manual_seed(1))
    moved = changed.tokens != tokens
    assert not moved[:, 9:].any()
    assert moved[:, :9].float().mean().item() == pytest.approx(REPLACED * (1 - 1 / 9), abs=0.02)
    assert (changed.tokens[moved] % width < 9).all()
    assert (changed.tokens // width == tokens // width).all()  # of the same answer
    assert still.equal(wanted.masked_fill(moved, 0))
    assert not changed.confidence.any()
    assert not changed.hidden.any()


def test_what_was_worth_revealing_in_hindsight_by_hand() -> None:
    yes, no = True, False
    eligible = torch.tensor([[yes, yes, yes, no]] * 3)
    chosen = torch.tensor([[yes, no, no, no], [yes, yes, no, no], [yes, no, no, no]])
    right = torch.tensor([[yes, yes, yes, no], [yes, no, yes, yes], [no, yes, yes, yes]])
    known: dict[str, Any] = dict.fromkeys(("trajectory", "correct", "expert", "passes", "length", "speed"), eligible)
    rollouts = Rollouts(steps={"eligible": eligible, "chosen": chosen}, right=right, **known)
    wanted = followed(rollouts)
    assert wanted[0].tolist() == [1, 1, 1, 1]  # everything, as nothing was wrong
    assert wanted[1].tolist() == [1, 0, 0, 0]  # of what the teacher revealed what was right
    assert wanted[2].tolist() == [0, 0, 0, 0]


def test_what_makes_a_speed_by_hand() -> None:
    passes = torch.full((len(SHIFTS),), 2.0)  # everything at once takes 2
    passes[:4] = torch.tensor([40.0, 10.0, 8.0, 4.0])
    shifts = shifts_of_speeds(passes)
    assert shifts[0] == SHIFTS[0]
    assert shifts[2] == SHIFTS[1]  # 2 / 10
    assert shifts[3].item() == pytest.approx(SHIFTS[2:4].lerp(SHIFTS[3:5], 0.2)[0].item())  # between 2 / 8 and 2 / 4
    assert shifts[5] == SHIFTS[3]  # 2 / 4
    assert shifts[10] == SHIFTS[-1]  # as sure as can be
    assert (shifts.diff() > 0).all()


REMASKING = PolicyShape(remask=True, vocabulary=50)


@pytest.mark.parametrize(
    ("mode", "shape"), [("bernoulli", PolicyShape()), ("dpls", PolicyShape()), ("bernoulli", REMASKING)]
)
def test_what_training_replays_is_what_was_seen_and_chosen(nano: Model, mode: str, shape: PolicyShape) -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(shape).requires_grad_(False)
    recorder = RecordingScheduler(network, PolicyConfig(), mode)
    problems = list(islice(SUDOKU.problems(0, "train"), 3))
    rollouts = roll_out(Engine(nano), [Episode(SUDOKU, problem, 1.0, recorder, 32) for problem in problems], seed=5)
    everything = slice(None)
    logits = rollouts.observation(everything).logits(network)
    assert len(logits) == rollouts.passes.sum() == len(rollouts.trajectory)
    chosen, order, eligible = (rollouts.steps[name] for name in ("chosen", "order", "eligible"))
    again = log_likelihood(mode, logits, eligible, chosen, order)
    assert torch.allclose(again, rollouts.steps["log_likelihood"], atol=1e-4)
    assert (chosen <= eligible).all()
    mask = rollouts.steps["mask"]
    assert (eligible <= mask).all() == (not shape.remask)
    assert (rollouts.steps["time"] == 0).sum() == len(problems)  # each trajectory begins once
    alone = [
        roll_out(Engine(nano), [Episode(SUDOKU, problem, 1.0, recorder, 32)], 5 + i)
        for i, problem in enumerate(problems)
    ]
    assert rollouts.correct.tolist() == [rollout.correct.item() for rollout in alone]
    assert rollouts.passes.tolist() == [rollout.passes.item() for rollout in alone]


@pytest.mark.parametrize("blockless", [False, True])
def test_an_expert_is_followed_and_recorded_with_or_without_regard_to_blocks(nano: Model, blockless: bool) -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(PolicyShape()).requires_grad_(False)
    expert = parse_scheduler_text("topk:n=8")
    (problem,) = islice(SUDOKU.problems(0, "train"), 1)
    recorder = RecordingScheduler(network, PolicyConfig(), "bernoulli", expert, blockless)
    rollouts = roll_out(Engine(nano), [Episode(SUDOKU, problem, 1.0, recorder, 32)], seed=0)
    assert (rollouts.steps["chosen"].sum(1) == 8).all()
    assert rollouts.steps["eligible"].equal(rollouts.steps["mask"]) == blockless
    assert rollouts.steps["eligible"].sum(1).tolist() == (
        [48, 40, 32, 24, 16, 8] if blockless else [32, 24, 16, 8, 16, 8]
    )
    assert rollouts.expert.all()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(nano: Model, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        out.mkdir()
    PolicyTrainer(SMALL, nano, whole).run(save_every=1)

    class Killed(Exception):
        pass

    def kill(figures: dict[str, float]) -> None:
        if figures["batch"] == 3:
            raise Killed

    with pytest.raises(Killed):
        PolicyTrainer(SMALL, nano, cut).run(2, kill)  # batch 3 is logged, and not saved
    PolicyTrainer(SMALL, nano, cut).run(save_every=2)
    assert (whole / WEIGHTS).read_bytes() == (cut / WEIGHTS).read_bytes()
    assert _curve(whole) == _curve(cut)
    with pytest.raises(CannotLearnError, match="holds a run with another alpha"):
        PolicyTrainer(replace(SMALL, alpha=2.0), nano, cut)


def _curve(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_training_goes_on_from_another_policy(nano: Model, tmp_path: Path) -> None:
    PolicyTrainer(SMALL, nano, tmp_path / "first").save()
    further = PolicyTrainer(replace(SMALL, initial=str(tmp_path / "first"), remask=True), nano, tmp_path / "second")
    before = load_policy(tmp_path / "first").network.state_dict()
    after = further.network.state_dict()
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    assert after.keys() - before.keys() == {"keep_proj.weight", "keep_proj.bias"}
    with pytest.raises(CannotLearnError, match=r"first' differs in confidence; train with the settings that made it"):
        PolicyTrainer(replace(SMALL, initial=str(tmp_path / "first"), confidence="log-odds"), nano, tmp_path / "third")
    with pytest.raises(OptionError, match="'nowhere', which is neither a shipped policy"):
        PolicyTrainer(replace(SMALL, initial="nowhere"), nano, tmp_path / "third")


def test_what_cannot_learn_is_refused(nano: Model, tmp_path: Path) -> None:
    with pytest.raises(CannotLearnError, match="a group of 1 has nothing to be compared with"):
        PolicyTrainer(replace(SMALL, group=1), nano, tmp_path)
    with pytest.raises(CannotLearnError, match="dpls revises no tokens; use --mode bernoulli"):
        PolicyTrainer(replace(SMALL, remask=True, mode="dpls"), nano, tmp_path)
    with pytest.raises(CannotLearnError, match="a token is taken back or written over, not both"):
        PolicyTrainer(replace(SMALL, remask=True, write=True), nano, tmp_path)
    with pytest.raises(CannotLearnError, match="a verification of 5 batches is for policies that read tokens"):
        PolicyTrainer(replace(SMALL, verification=5), nano, tmp_path)
    hopeless = replace(SMALL, imitation=0, batches=PATIENCE + 1, start=30.0, group=2, prompts=1)  # all at once, always
    with pytest.raises(CannotLearnError, match=f"in {PATIENCE} batches all rollouts of each group had the same reward"):
        PolicyTrainer(hopeless, nano, tmp_path).run(save_every=100)


FEW_SHIFTS = torch.tensor([2.0, 4.0, 6.0])  # speeds are measured with each, by answers that take few passes
KINDS = [
    {"steering": True, "write": True},
    {"any_speed": True},
    {"mode": "dpls"},
    {"observation": "block", "block_length": (16, "full")},
    {"tokens": 100, "verification": 1, "confidence": "log-odds"},
    {"remask": True, "tokens": 100, "verification": 1, "teacher": ("threshold",)},
    {"sees": ("positions", "stops"), "top_k": 2, "teacher": ("threshold",), "teacher_block": 16},
    {"sees": ("hidden",), "observation": "block", "block_length": (16, 32)},
    {"sees": ("hidden", "stops"), "tokens": 100, "verification": 1},
]


@pytest.mark.parametrize("settings", KINDS)
def test_every_kind_of_policy_learns_something(
    nano: Model, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.policies.speeds.SHIFTS", FEW_SHIFTS)
    recipe = replace(SMALL, **settings)
    trainer = PolicyTrainer(recipe, nano, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.run(save_every=10)
    assert load_policy(tmp_path).network.shape == recipe.shape(width=128)
    after = trainer.network.state_dict()
    assert any(not tensor.equal(after[name]) for name, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_the_command_trains_measures_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "policy"
    flags = f"--dtype float32 --out {out} --recipe paper --imitation 1 --group 2 --prompts 2 --batches 2 --problems 4"
    settings = parse_settings(TrainPolicySettings, "unmask train-policy", flags.split())
    train_policy(settings)
    card = (out / "README.md").read_text()
    (command,) = (line for line in card.splitlines() if line.startswith("unmask train-policy "))
    assert parse_settings(TrainPolicySettings, "unmask train-policy", shlex.split(command)[2:]) == settings
    assert f"unmask train-policy --dtype float32 --out {out} --recipe paper --imitation 1 --group 2" in card
    assert f"--scheduler policy:policy={out}" in card
    assert "| sudoku | 32 |" in card
    assert (out / "training.png").stat().st_size > 0
    assert {file.name: stat.filemode(file.stat().st_mode) for file in out.iterdir()} == dict.fromkeys(
        ("model.safetensors", "policy.json", "README.md", "training.png", "training.pt", "train.jsonl"), "-rw-r--r--"
    )
    shown = capsys.readouterr()
    assert "training in" in shown.err
    assert "batch 3 of 3: reward" in shown.err
    (use,) = (line.strip() for line in shown.out.splitlines() if "unmask generate" in line)
    cli.main(shlex.split(use)[1:])
    assert "forward passes" in capsys.readouterr().err
    train_policy(settings.model_copy(update={"problems": 0}))
    assert "is complete: all 3 batches are done" in capsys.readouterr().err


def test_the_recipe_of_the_paper_has_its_values_for_flags_that_are_not_given() -> None:
    recipe = PolicyRecipe.of(TrainPolicySettings(recipe="paper", alpha=3))
    assert {name: getattr(recipe, name) for name in PAPER} == {**PAPER, "alpha": 3}
    assert (recipe.warm, set(recipe.tasks)) == (0, set(BOTH))


def test_the_default_recipe_is_that_of_the_shipped_policy() -> None:
    card = (weights.HERE / "policies" / "full-diffusion" / "README.md").read_text()
    made = json.loads(card.split("```json")[1].split("```")[0])
    settings = TrainPolicySettings().model_dump(mode="json")
    differ = {name for name in made.keys() & settings.keys() if made[name] != settings[name]}
    assert differ == set()


FEW_SPEEDS = """
import torch
from unmask.cli import main
from unmask.policies import speeds

speeds.SHIFTS = torch.tensor([2.0, 4.0, 6.0])
main()
"""


def test_two_processes_train_one_policy(tmp_path: Path) -> None:
    out, script = tmp_path / "policy", tmp_path / "train.py"
    script.write_text(FEW_SPEEDS)
    launch = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    train = "--task sudoku --block-length 32 --batches 1 --imitation 1 --prompts 1 --group 2 --problems 0 --any-speed"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split()]
    command += [str(script), "train-policy", *train.split(), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PROCESS_PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len((out / LOG_FILE).read_text().splitlines()) == 2


def test_the_shipped_policy_obeys_speeds(nano: Model) -> None:
    problems = list(islice(SUDOKU.problems(1, "held-out"), 16))
    passes, correct = [], []
    for speed in (0.0, 0.5, 0.7, 1.0):
        scheduler = parse_scheduler("policy", {"speed": speed})
        requests = [
            Request(str(i), prompt_ids(nano, problem), SUDOKU.max_tokens, SUDOKU.max_tokens, scheduler, seed=i)
            for i, problem in enumerate(problems)
        ]
        results = Engine(nano).results(requests)
        passes.append(sum(result.forward_passes for result in results.values()) / len(problems))
        correct.append(sum(problem.grade(results[str(i)].text) for i, problem in enumerate(problems)))
    assert passes[0] > passes[1] > passes[2] > passes[3]
    assert passes[0] >= 2.5 * passes[3]  # of these few; three times and more of many
    assert correct[0] >= 0.9 * len(problems)
