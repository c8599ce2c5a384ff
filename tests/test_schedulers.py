"""Each scheduler against numbers worked by hand; options, registry, and a stranger's package."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.synthetic import synthetic_llada
from unmask.schedulers import (
    OptionError,
    SchedulerSpec,
    State,
    UnknownSchedulerError,
    View,
    json_schema,
    parse_scheduler,
    parse_scheduler_text,
    scheduler_class,
    scheduler_names,
    top_n,
)
from unmask.schedulers.base import counter_uniform


def view(confidence: list[list[float]], mask: list[list[int]] | None = None, **fields: Any) -> View:
    """A view with these confidences; every position is masked unless `mask` says otherwise."""
    c = torch.tensor(confidence)
    rows, width = c.shape
    masked = torch.tensor(mask, dtype=torch.bool) if mask else torch.ones_like(c, dtype=torch.bool)
    zeros = torch.zeros(rows, dtype=torch.long)
    plain: dict[str, Any] = {
        "mask": masked,
        "eligible": masked,
        "tokens": torch.zeros_like(c, dtype=torch.long),
        "proposal": torch.zeros_like(c, dtype=torch.long),
        "confidence": c,
        "positions": torch.arange(width).expand(rows, -1),
        "block_start": zeros,
        "block_end": zeros + width,
        "length": zeros + width,
        "masks": zeros + width,
        "blocks": zeros + 1,
        "later_masks": zeros,
        "later_blocks": zeros,
        "step": zeros,
        "block_step": zeros,
        "options": {},
        "seed": torch.arange(rows),
    }
    return View(**plain | fields)


def decide(name: str, seen: View, *options: dict[str, object]) -> list[list[int]]:
    """The columns that each row reveals; one set of options a row."""
    specs = [parse_scheduler(name, row) for row in options or [{}] * len(seen.step)]
    columns = {key: torch.tensor([spec.numeric[key] for spec in specs]) for key in specs[0].numeric}
    scheduler = specs[0].scheduler()
    reveal = scheduler.decide(View(**{**vars(seen), "options": columns}), {}).reveal
    return [row.nonzero().flatten().tolist() for row in reveal]


def test_topk_takes_the_n_most_confident_of_each_row() -> None:
    seen = view([[0.2, 0.9, 0.5, 0.7], [0.4, 0.3, 0.2, 0.1]], mask=[[1, 1, 1, 1], [0, 0, 1, 1]])
    assert decide("topk", seen, {}, {}) == [[1], [2]]
    assert decide("topk", seen, {"n": 3}, {"n": 3}) == [[1, 2, 3], [2, 3]]
    assert decide("topk", seen, {"n": 1}, {"n": 2}) == [[1], [2, 3]]


def test_equals_are_taken_from_the_left() -> None:
    assert decide("topk", view([[0.5, 0.5, 0.5]]), {"n": 2}) == [[0, 1]]


@pytest.mark.parametrize(
    ("masks", "steps", "expected"), [(10, 4, [3, 3, 2, 2]), (4, 4, [1] * 4), (3, 8, [1] * 3), (5, 1, [5])]
)
def test_steps_are_spread_as_in_the_published_schedule(masks: int, steps: int, expected: list[int]) -> None:
    counts, mask = [], [1] * masks
    for step in range(len(expected)):
        seen = view([[0.5] * masks], mask=[mask], step=torch.tensor([step]))
        (chosen,) = decide("topk", seen, {"steps": steps})
        counts.append(len(chosen))
        mask = [0 if i in chosen else m for i, m in enumerate(mask)]
    assert counts == expected


def test_a_block_gets_its_share_of_the_steps() -> None:
    later: dict[str, Any] = {"later_masks": torch.tensor([24]), "later_blocks": torch.tensor([3])}
    seen = view([[0.5] * 8], masks=torch.tensor([32]), blocks=torch.tensor([4]), **later)
    assert len(decide("topk", seen, {"steps": 8})[0]) == 4


def test_margin_takes_where_the_lead_is_largest() -> None:
    p = torch.tensor([[[0.6, 0.4], [0.5, 0.1], [0.45, 0.44]]])
    assert decide("margin", view([[0.6, 0.5, 0.45]], top_probabilities=p)) == [[1]]


def test_entropy_takes_the_narrowest() -> None:
    assert decide("entropy", view([[0.6, 0.5, 0.9]], entropy=torch.tensor([[1.0, 0.2, 0.3]])), {"n": 2}) == [[1, 2]]


def test_threshold_takes_all_above_and_at_least_the_best() -> None:
    seen = view([[0.95, 0.8, 0.91], [0.2, 0.6, 0.3]])
    assert decide("threshold", seen, {}, {}) == [[0, 2], [1]]
    assert decide("threshold", seen, {"threshold": 0.5}, {"threshold": 0.25}) == [[0, 1, 2], [1, 2]]


def test_threshold_is_exceeded_not_met() -> None:
    assert decide("threshold", view([[0.5, 0.5]]), {"threshold": 0.5}) == [[0]]


def test_factor_takes_the_longest_prefix_that_is_safe_together() -> None:
    # (n + 1)(1 - c): 2 * .05, 3 * .1, 4 * .2, 5 * .3 -> 0.1, 0.3, 0.8, 1.5
    seen = view([[0.8, 0.95, 0.7, 0.9]])
    assert decide("factor", seen, {"factor": 1.0}) == [[0, 1, 3]]
    assert decide("factor", seen, {"factor": 0.2}) == [[1]]
    assert decide("factor", seen, {"factor": 0.0}) == [[1]]
    assert decide("factor", seen, {"factor": 2.0}) == [[0, 1, 2, 3]]


def test_eb_takes_what_the_sum_before_the_largest_allows() -> None:
    # sorted 0.01, 0.04, 0.06, 0.3: sums without the largest 0, 0.01, 0.05, 0.11; the fifth is not eligible
    entropy = torch.tensor([[0.06, 0.3, 0.01, 0.04, 0.0]])
    seen = view([[0.5] * 5], mask=[[1, 1, 1, 1, 0]], entropy=entropy)
    assert decide("eb", seen, {"gamma": 0.0}) == [[2]]
    assert decide("eb", seen, {"gamma": 0.02}) == [[2, 3]]
    assert decide("eb", seen) == [[0, 2, 3]]
    assert decide("eb", seen, {"gamma": 5.0}) == [[0, 1, 2, 3]]


def test_klass_takes_what_is_sure_and_has_been_stable() -> None:
    scheduler = parse_scheduler("klass").scheduler()
    options = {"threshold": torch.tensor([0.9]), "epsilon": torch.tensor([0.01]), "history": torch.tensor([2])}
    confidence = [[0.95, 0.97, 0.99, 0.5]]
    moves = [[torch.inf] * 4, [0.001, 0.5, 0.001, 0.001], [0.001, 0.001, 0.01, 0.001], [0.0, 0.0, 0.0, 0.0]]
    chosen: list[list[int]] = []
    state: State = {}
    for step, kl in enumerate(moves):
        seen = view(confidence, kl=torch.tensor([kl]), block_step=torch.tensor([step]), options=options)
        decision = scheduler.decide(seen, state)
        state = decision.state
        chosen.append(decision.reveal[0].nonzero().flatten().tolist())
    # nothing is stable twice in a row before the third pass: the most confident; then 0, which alone is; then 0 and 1
    assert chosen == [[2], [2], [0], [0, 1]]
    first = view(confidence, kl=torch.tensor([moves[3]]), options=options)  # of another block: what was does not count
    assert scheduler.decide(first, state).reveal[0].nonzero().flatten().tolist() == [2]


def test_random_draws_without_looking_and_evenly() -> None:
    rows = 4000
    seen = view([[0.9, 0.1, 0.5, 0.5]] * rows, mask=[[1, 1, 1, 0]] * rows)
    chosen = torch.tensor([row[0] for row in decide("random", seen)])
    share = torch.bincount(chosen, minlength=4) / rows
    assert share[3] == 0
    assert share[:3].sub(1 / 3).abs().max() < 0.04  # five standard deviations


def test_uniform_draws_are_uniform_and_independent() -> None:
    draws = counter_uniform(torch.arange(300)[:, None], torch.arange(300)[None])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert draws.mean().item() == pytest.approx(0.5, abs=0.005)
    assert draws.var().item() == pytest.approx(1 / 12, abs=0.005)
    other = counter_uniform(torch.arange(300)[:, None], torch.arange(300)[None], stream=2)
    for a, b in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1]), (draws, other)):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.02


def test_a_statistic_that_was_not_asked_for_says_how_to_ask() -> None:
    seen = view([[0.5]], entropy=torch.tensor([[2.0]]))
    assert seen.need("entropy").tolist() == [[2.0]]
    with pytest.raises(ValueError, match=r"the view holds no kl; ask for it: needs = Needs\(kl=True\)"):
        seen.need("kl")


def test_the_block_and_its_most_confident_mask() -> None:
    seen = view([[0.9, 0.5, 0.5, 0.8]], block_start=torch.tensor([1]), block_end=torch.tensor([3]))
    assert seen.in_block.tolist() == [[False, True, True, False]]
    eligible = view([[0.9, 0.5, 0.5, 0.8]], eligible=seen.in_block)
    assert eligible.most_confident().tolist() == [[False, True, False, False]]
    assert not view([[0.9]], eligible=torch.tensor([[False]])).most_confident().any()


def test_top_n_needs_no_eligible_position() -> None:
    assert not top_n(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.tensor([2])).any()


@pytest.mark.parametrize("name", scheduler_names())
def test_every_scheduler_describes_itself(name: str) -> None:
    kind = scheduler_class(name)
    doc = kind.__doc__ or ""
    assert all(word in doc for word in ("Formula:", "Source:", "Defaults:"))
    for option, schema in json_schema(kind.Options)["properties"].items():
        assert schema["description"], option


def test_an_unknown_scheduler_is_refused_with_the_list() -> None:
    with pytest.raises(
        UnknownSchedulerError,
        match=r"unknown scheduler 'topp'.*: ada-block, credit,.* threshold, topk, two-thresholds, wavefront, wino",
    ):
        parse_scheduler("topp")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "unknown option 'k'; the options are: n, steps"),
        ({"n": 0}, "option 'n' must be an integer of at least 1, not 0"),
        ({"n": 1.5}, "option 'n' must be an integer of at least 1, not 1.5"),
        ({"n": True}, "not True"),
        ({"n": "2"}, "not '2'"),
        ({"n": None}, "not None"),
        ({"n": float("nan")}, "not nan"),
        ({"steps": [1]}, r"option 'steps' must be an integer of at least 1 or null, not \[1\]"),
        ({"n": 2, "steps": 3}, "exclude each other"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_scheduler("topk", options)


def test_a_bound_is_part_of_the_message() -> None:
    with pytest.raises(OptionError, match=r"option 'threshold' must be a number from 0 to 1, not 1.5"):
        parse_scheduler("threshold", {"threshold": 1.5})


def test_options_read_from_a_command_line() -> None:
    assert parse_scheduler_text("topk:n=4") == parse_scheduler("topk", {"n": 4})
    assert parse_scheduler_text("threshold:threshold=0.5") == parse_scheduler("threshold", {"threshold": 0.5})
    assert isinstance(parse_scheduler_text("topk"), SchedulerSpec)
    with pytest.raises(OptionError, match="not option=value"):
        parse_scheduler_text("topk:4")


STRANGER = '''
from dataclasses import dataclass
from unmask.schedulers import Decision, Needs, option, top_n

class LeftToRight:
    """Reveals the leftmost masks."""
    needs = Needs()
    @dataclass(frozen=True)
    class Options:
        n: int = option(1, "tokens a step", minimum=1)
    def decide(self, view, state):
        return Decision(top_n(-view.positions.float(), view.eligible, view.options["n"]))
'''
STRANGER_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stranger"
version = "1.0"
[project.entry-points."unmask.schedulers"]
left-to-right = "stranger:LeftToRight"
[tool.setuptools]
py-modules = ["stranger"]
"""


@pytest.mark.slow
def test_a_strangers_package_is_installed_and_used_by_name(tmp_path: Path) -> None:
    project, site = tmp_path / "stranger", tmp_path / "site"
    project.mkdir()
    (project / "stranger.py").write_text(STRANGER)
    (project / "pyproject.toml").write_text(STRANGER_PROJECT)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
    ]
    subprocess.run([*pip, str(project)], check=True, capture_output=True)
    model = synthetic_llada(tmp_path / "model")
    command = [sys.executable, "-m", "unmask", "generate", "hello", "--model", str(model), "--max-tokens", "12"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    used = subprocess.run(
        [*command, "--scheduler", "left-to-right:n=4"], env=environment, check=True, capture_output=True, text=True
    )
    assert "forward passes" in used.stderr
    assert " in 3 " in used.stderr or "ended by the model" in used.stderr
    unknown = subprocess.run([*command, "--scheduler", "left-to-right"], check=False, capture_output=True, text=True)
    assert unknown.returncode == 1
    assert "unknown scheduler 'left-to-right'" in unknown.stderr
