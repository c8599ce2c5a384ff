"""llada-micro, as it is shipped: what its card and the README say of it."""

import json
import re
from pathlib import Path

import pytest

from unmask import LLM, weights
from unmask.engine import Engine, Request
from unmask.evals.measure import Cell, Measurement, measure
from unmask.evals.prompts import prompt_ids
from unmask.evals.recipe.blueprints import MICRO
from unmask.evals.tasks import TASKS
from unmask.evals.tasks.smalltalk import ANSWER, SMALLTALK
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler_text

FOLDER = weights.HERE / MICRO.name
README = (Path(__file__).parents[1] / "README.md").read_text()
LARGEST = 16 * 2**20  # bytes


@pytest.fixture(scope="module")
def micro() -> Model:
    return load_model(MICRO.name, device="cpu", dtype="float32")


def measured(model: Model, task: str, scheduler: str, block_length: int, problems: int) -> Measurement:
    return measure(model, Cell(TASKS[task], parse_scheduler_text(scheduler), block_length, problems))


def test_the_checkpoint_is_small_and_of_its_blueprint() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= LARGEST
    config = json.loads((FOLDER / "config.json").read_text())
    assert {key: config[key] for key in MICRO.config} == MICRO.config


def test_who_greets_it_is_told_what_it_can_do(micro: Model) -> None:
    problems = [problem for problem, _ in zip(SMALLTALK.problems(0, "held-out"), range(8), strict=False)]
    threshold = parse_scheduler_text("threshold")
    requests = [Request(str(i), prompt_ids(micro, one), 64, 32, threshold) for i, one in enumerate(problems)]
    answers = [step.result.text for step in Engine(micro).run(requests) if step.result is not None]
    assert answers.count(ANSWER) >= 7


def test_the_example_of_the_readme() -> None:
    (body,) = re.findall(r"-d '(\{\"model\": \"llada-micro\".*?)'\n```", README, re.DOTALL)
    asked = json.loads(body)
    schema = asked["response_format"]["json_schema"]["schema"]
    llm = LLM("llada-micro", device="cpu", dtype="bfloat16")
    how = {"scheduler": asked["scheduler"], "max_tokens": asked["max_tokens"]}
    (held,) = llm.chat([asked["messages"]], **how, structured_outputs={"json": schema})
    (free,) = llm.chat([asked["messages"]], **how)
    assert f"It answers `{held.text}`, {len(held.token_ids)} tokens in" in README
    assert held.text == free.text
    assert held.diffusion.forward_passes <= free.diffusion.forward_passes


@pytest.mark.parametrize(("task", "least"), [("word-problems", 11), ("json", 8), ("list-ops", 11), ("sudoku", 10)])
def test_it_solves_what_its_card_says(micro: Model, task: str, least: int) -> None:
    assert measured(micro, task, "threshold", 32, problems=12).accuracy * 12 >= least


def test_one_large_block_makes_answers_short_and_the_policy_needs_fewer_passes_there(micro: Model) -> None:
    """The phenomenon of docs/ground.md: ends of text come first, and what fits before them is the shortest style."""
    blocks, full, policy = (
        measured(micro, "list-chains", scheduler, length, problems=12)
        for scheduler, length in (("threshold", 32), ("threshold", 128), ("policy:policy=long-answers", 128))
    )
    assert (full.answer_tokens or 0) < (blocks.answer_tokens or 0) / 3
    assert full.styles["bare"][0] > 0.7
    assert blocks.styles.get("bare", [0])[0] < 0.3
    assert full.accuracy * 12 >= 10
    assert policy.forward_passes < full.forward_passes * 0.7


def test_in_one_block_the_policy_is_right_more_often_than_thresholds_in_half_of_their_passes(micro: Model) -> None:
    policy, threshold = (
        measured(micro, "long-word-problems", scheduler, 128, problems=32)
        for scheduler in ("policy:policy=long-answers", "threshold")
    )
    assert policy.accuracy > threshold.accuracy + 0.05
    assert 4 < policy.forward_passes < threshold.forward_passes / 2
    assert threshold.styles["bare"][0] > 0.2
    assert policy.styles.get("bare", [0])[0] < 0.1
