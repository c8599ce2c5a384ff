"""llada-trace, llada-clock and their policies, as they are shipped: what docs/ground.md says, on fewer problems."""

import json
from functools import cache
from pathlib import Path

import pytest

from unmask import weights
from unmask.evals.measure import Cell, Measurement, measure
from unmask.evals.recipe.blueprints import CLOCK, TRACE, Blueprint
from unmask.evals.recipe.tokenizer import build_tokenizer, save_tokenizer
from unmask.evals.tasks import TASKS
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler_text

pytestmark = pytest.mark.slow

LEARNED = {TRACE.name: "running-totals", CLOCK.name: "clock-turns"}
PLAIN = 0.8  # share of answers with a line for each step in blocks of 32, at least
PLAIN_IN_ONE_BLOCK = {TRACE.name: 0.8, CLOCK.name: 0.9}  # the same, by the policy


@cache
def loaded(checkpoint: str) -> Model:
    return load_model(checkpoint, device="cpu", dtype="float32")


@cache
def measured(checkpoint: str, scheduler: str, block_length: int) -> Measurement:
    task = TASKS[LEARNED[checkpoint]]
    return measure(loaded(checkpoint), Cell(task, parse_scheduler_text(scheduler), block_length, 40))


def share(result: Measurement, style: str) -> float:
    return result.styles.get(style, [0.0])[0]


@pytest.mark.parametrize("blueprint", [TRACE, CLOCK], ids=lambda blueprint: blueprint.name)
def test_the_checkpoint_is_of_its_blueprint(blueprint: Blueprint, tmp_path: Path) -> None:
    folder = weights.HERE / blueprint.name
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in blueprint.config} == blueprint.config
    save_tokenizer(build_tokenizer(blueprint), tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == json.loads((folder / "tokenizer.json").read_text())


@pytest.mark.parametrize("trace", LEARNED)
def test_the_block_decides_how_much_is_written(trace: str) -> None:
    in_blocks, at_once = measured(trace, "threshold", 32), measured(trace, "threshold", 128)
    assert share(in_blocks, "plain") > PLAIN
    assert share(in_blocks, "bare") < 0.1
    assert share(at_once, "bare") > 0.8
    assert measured(trace, "threshold:threshold=0.99", 32).accuracy > at_once.accuracy + 0.1


@pytest.mark.parametrize("trace", LEARNED)
def test_the_policy_writes_its_steps_in_one_block(trace: str) -> None:
    policy, eb = measured(trace, "policy:policy=traces", 128), measured(trace, "eb", 128)
    assert share(policy, "plain") > PLAIN_IN_ONE_BLOCK[trace]
    assert share(policy, "bare") == 0
    assert policy.accuracy > eb.accuracy + 0.2
    assert policy.forward_passes < eb.forward_passes * 0.6


@pytest.mark.parametrize(
    ("checkpoint", "policy", "rule", "block_length"),
    [
        (TRACE.name, "traces-32", "factor", 32),
        (TRACE.name, "traces", "dus", 64),
        (TRACE.name, "traces", "multi-block:threshold=0.7:begin=0.2", 128),
        (CLOCK.name, "traces", "multi-block:threshold=0.7:begin=0.2", 128),
    ],
)
def test_a_policy_is_right_more_often_than_the_best_rule_of_as_many_passes(
    checkpoint: str, policy: str, rule: str, block_length: int
) -> None:
    learned, ruled = (measured(checkpoint, name, block_length) for name in (f"policy:policy={policy}", rule))
    assert learned.accuracy > ruled.accuracy + 0.05
    assert learned.forward_passes < ruled.forward_passes + 1
