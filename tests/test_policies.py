"""Learned policies: the paper's network and likelihoods, checkpoints, and the scheduler that obeys them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import policy_oracle
from tests.outcomes import outcomes
from tests.synthetic import synthetic_llada
from tests.synthetic_relatives import FAMILIES
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError, SchedulerError
from unmask.models.loading import Model, load_model
from unmask.policies.choice import (
    bernoulli,
    bernoulli_entropy,
    bernoulli_log_likelihood,
    expected,
    likely,
    or_best,
    plackett_luce,
    plackett_luce_log_likelihood,
)
from unmask.policies.network import PolicyNetwork, PolicyShape
from unmask.policies.scheduler import MODES, LearnedPolicy
from unmask.policies.store import CONFIG, WEIGHTS, PolicyConfig, load_policy, save_policy
from unmask.schedulers import OptionError, json_schema, parse_scheduler, scheduler_class

ROUNDING = 1e-5
PARAMETERS = 331_265  # as the authors' code prints
UTILITIES = [0.7, -1.2, 0.1]
DRAWS = 20_000
CHANCE = 0.015  # how far a frequency of that many draws may be from its probability: four standard deviations


@pytest.fixture
def network() -> PolicyNetwork:
    torch.manual_seed(0)
    return PolicyNetwork(PolicyShape()).requires_grad_(False)


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


def saved(folder: Path, observation: str = "generation", speed: bool = False, **shape: Any) -> str:
    torch.manual_seed(1)
    network = PolicyNetwork(PolicyShape(speed=speed, **shape))
    save_policy(folder, network, PolicyConfig.model_validate({"observation": observation, "speed": speed}))
    return str(folder)


def by_policy(folder: str, count: int = 4, **options: object) -> list[Request]:
    scheduler = parse_scheduler("policy", {"policy": folder, **options})
    shapes = [(9, 8), (24, 8), (12, 12), (17, 5)]
    return [Request(str(i), tuple(range(3, 6 + i)), *shapes[i % len(shapes)], scheduler, seed=i) for i in range(count)]


def test_the_network_is_the_papers(network: PolicyNetwork) -> None:
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS
    mask, confidence = torch.rand(3, 12) < 0.5, torch.rand(3, 12, 1)
    time = torch.tensor([0.0, 0.25, 0.9])
    seen = torch.ones(3, 12, dtype=torch.bool)
    found = network(mask, confidence, time, torch.zeros(3), seen)
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    for row in range(3):
        expected = policy_oracle.logits(weights, mask[row], confidence[row], time[row].item())
        assert torch.allclose(found[row], expected, atol=ROUNDING)


def test_padding_is_not_seen(network: PolicyNetwork) -> None:
    mask, confidence, time = torch.rand(1, 12) < 0.5, torch.rand(1, 12, 1), torch.tensor([0.1])
    seen = torch.arange(12)[None] < 9
    padded = network(mask, confidence, time, torch.zeros(1), seen)[:, :9]
    alone = network(mask[:, :9], confidence[:, :9], time, torch.zeros(1), seen[:, :9])
    assert torch.allclose(padded, alone, atol=ROUNDING)


def test_before_training_every_logit_is_the_start(network: PolicyNetwork) -> None:
    network.start_at(-2.0)
    seen = torch.ones(2, 6, dtype=torch.bool)
    logits = network(seen, torch.rand(2, 6, 1), torch.tensor([0.0, 0.5]), torch.zeros(2), seen)
    assert logits.mean().item() == pytest.approx(-2.0, abs=1.0)
    assert torch.allclose(logits[0, 0], network(~seen, torch.rand(2, 6, 1), *_at(0.9), seen)[0, 0], atol=3.0)
    assert network.output_proj.bias.item() == -2.0


def _at(time: float) -> tuple[Tensor, Tensor]:
    return torch.full((2,), time), torch.zeros(2)


@pytest.mark.parametrize("padding", [0, 2])
def test_likelihoods_are_the_papers(padding: int) -> None:
    logits = torch.tensor([*UTILITIES, *[9.0] * padding])
    eligible = torch.tensor([True] * 3 + [False] * padding)
    for chosen, p in policy_oracle.bernoulli_probabilities(UTILITIES).items():
        picked = torch.tensor([i in chosen for i in range(3 + padding)])
        assert bernoulli_log_likelihood(logits, eligible, picked).exp().item() == pytest.approx(p, abs=ROUNDING)
    for order, p in policy_oracle.plackett_luce_probabilities(UTILITIES).items():
        rank = torch.tensor([float(order.index(i)) if i in order else math.inf for i in range(3 + padding)])
        assert plackett_luce_log_likelihood(logits, eligible, rank).exp().item() == pytest.approx(p, abs=ROUNDING)


def test_choices_are_as_frequent_as_they_are_likely() -> None:
    logits = torch.tensor([*UTILITIES, 9.0]).expand(DRAWS, 4)
    eligible = torch.tensor([True, True, True, False]).expand(DRAWS, 4)
    rng = torch.Generator().manual_seed(0)
    chosen = bernoulli(logits, eligible, torch.rand(DRAWS, 4, generator=rng))
    for wanted, p in policy_oracle.bernoulli_probabilities(UTILITIES).items():
        row = torch.tensor([i in wanted for i in range(4)])
        assert (chosen == row).all(1).float().mean().item() == pytest.approx(p, abs=CHANCE)
    chosen, order = plackett_luce(logits, eligible, torch.rand(2, DRAWS, 5, generator=rng))
    assert (order.isfinite() == chosen).all()
    for wanted_order, p in policy_oracle.plackett_luce_probabilities(UTILITIES).items():
        rank = torch.tensor([float(wanted_order.index(i)) if i in wanted_order else math.inf for i in range(4)])
        assert (order == rank).all(1).float().mean().item() == pytest.approx(p, abs=CHANCE)


@pytest.mark.parametrize("mode", ["bernoulli", "dpls"])
def test_gradients_of_likelihoods_are_their_finite_differences(mode: str) -> None:
    logits = torch.tensor([0.3, -0.8, 1.1, 5.0], requires_grad=True)
    eligible = torch.tensor([True, True, True, False])

    def likelihood(x: Tensor) -> Tensor:
        if mode == "bernoulli":
            return bernoulli_log_likelihood(x, eligible, torch.tensor([True, False, True, False]))
        return plackett_luce_log_likelihood(x, eligible, torch.tensor([1.0, math.inf, 0.0, math.inf]))

    (gradient,) = torch.autograd.grad(likelihood(logits), logits)
    step = 1e-2
    for i in range(4):
        moved = [logits.detach() + sign * step * torch.eye(4)[i] for sign in (1, -1)]
        difference = (likelihood(moved[0]) - likelihood(moved[1])) / (2 * step)
        assert gradient[i].item() == pytest.approx(difference.item(), abs=1e-3)


def test_rules_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]])
    eligible = torch.tensor([[True, True, True, False]])
    assert or_best(torch.zeros(1, 4).bool(), logits, eligible).tolist() == [[True, False, False, False]]
    assert or_best(eligible, logits, eligible).equal(eligible)
    # sigmoid: 0.88 + 0.27 + 0.62 = 1.77, rounded 2; times 0.25 0.44, at least one
    assert expected(logits, eligible).tolist() == [[True, False, True, False]]
    assert expected(logits, eligible, 0.25).tolist() == [[True, False, False, False]]
    assert likely(logits, eligible).tolist() == [[True, False, True, False]]
    assert likely(logits, eligible, math.exp(1.1)).equal(eligible)
    assert likely(logits, eligible, math.exp(-3)).tolist() == [[True, False, False, False]]  # none is, so the best
    assert bernoulli(logits, eligible, torch.full((1, 4), 0.7), 0.5).any().item() is False
    assert bernoulli(logits, eligible, torch.full((1, 4), 0.7), 16.0).equal(eligible)
    probabilities = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0, 0.5)]
    entropy = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in probabilities]
    assert bernoulli_entropy(logits, eligible).item() == pytest.approx(sum(entropy) / 3, abs=ROUNDING)


def test_a_policy_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = Path(saved(tmp_path / "mine", "block", speed=True, remask=True, vocabulary=30))
    assert all(name.startswith("base_policy.") for name in load_file(folder / WEIGHTS))
    again = load_policy(folder)
    assert again.config == PolicyConfig(observation="block", speed=True)
    assert again.network.shape == PolicyShape(speed=True, remask=True, vocabulary=30)


def test_weights_that_do_not_fit_the_card_are_refused(tmp_path: Path) -> None:
    folder = Path(saved(tmp_path, speed=True))
    (folder / CONFIG).unlink()
    with pytest.raises(OptionError, match=r"wrong or missing tensors: speed_shifts"):
        load_policy(folder)


def test_a_folder_without_a_card_is_the_papers(tmp_path: Path) -> None:
    folder = Path(saved(tmp_path))
    (folder / CONFIG).unlink()
    assert load_policy(folder).config == PolicyConfig(observation="generation", heads=2, speed=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"policy": "nowhere"},
            r"is 'nowhere', which is neither a shipped policy \(.*any-speed.*\) nor a folder",
        ),
        ({"mode": "argmax"}, r"'mode' must be one of likely, .*not 'argmax'"),
        ({"speed": 1.5}, r"'speed' must be a number from 0 to 1, not 1.5"),
        ({"temperature": 0}, r"'temperature' must be a number of at least 0.01"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_scheduler("policy", options)


def test_unreadable_policies_are_refused(tmp_path: Path) -> None:
    folder = Path(saved(tmp_path / "mine"))
    (folder / CONFIG).write_text(json.dumps({"observation": "everything"}))
    with pytest.raises(OptionError, match=r"policy\.json: observation: .*not 'everything'"):
        parse_scheduler("policy", {"policy": str(folder)})
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(OptionError, match=r"model\.safetensors cannot be read"):
        parse_scheduler("policy", {"policy": str(folder)})


def test_modes_are_told_to_clients() -> None:
    schema = json_schema(scheduler_class("policy").Options)
    assert schema["properties"]["mode"]["enum"] == list(MODES)


SHAPES: list[dict[str, Any]] = [
    {},
    {"remask": True, "vocabulary": 30, "speed": True},
    {"positions": True, "stops": True, "top_k": 3},
]


EACH = [
    (mode, shape, ("generation", "block")[(i + j) % 2])
    for i, mode in enumerate(MODES)
    for j, shape in enumerate(SHAPES)
]


@pytest.mark.parametrize(("mode", "shape", "observation"), EACH)
def test_batched_equals_alone(llada: Model, tmp_path: Path, mode: str, shape: dict[str, Any], observation: str) -> None:
    requests = by_policy(saved(tmp_path, observation, **shape), mode=mode)
    other = replace(requests[0], id="other", scheduler=parse_scheduler("margin"), max_tokens=30)
    together = outcomes(llada, [*requests, other])
    assert together == [outcomes(llada, [request])[0] for request in (*requests, other)]
    assert outcomes(llada, requests, static=True) == together[:-1]


def test_speed_moves_all_logits_of_policies_that_are_told_it() -> None:
    torch.manual_seed(1)
    network = PolicyNetwork(PolicyShape(speed=True)).requires_grad_(False)
    assert network.speed_shifts is not None
    network.speed_shifts.copy_(torch.arange(len(network.speed_shifts)) ** 2.0)
    seen = torch.ones(1, 6, dtype=torch.bool)
    inputs = (seen, torch.rand(1, 6, 1), torch.zeros(1))
    even = network(*inputs, torch.tensor([0.0]), seen)
    for speed, shift in ((0.2, 4.0), (0.25, 6.5), (0.97, 94.3), (1.0, 100.0)):
        assert torch.allclose(network(*inputs, torch.tensor([speed]), seen) - even, torch.tensor(shift), atol=1e-4)


def test_a_network_with_a_vocabulary_reads_tokens_and_where_they_are() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(PolicyShape(vocabulary=7)).requires_grad_(False)
    seen = torch.ones(1, 5, dtype=torch.bool)
    tokens, positions = torch.arange(5)[None], torch.arange(5)[None]

    def logits(tokens: Tensor, positions: Tensor) -> Tensor:
        return network(seen, torch.full((1, 5, 1), 0.5), torch.zeros(1), torch.zeros(1), seen, tokens, positions)

    plain = logits(tokens, positions)
    assert not torch.allclose(plain, logits(tokens.flip(1), positions), atol=0.01)
    assert not torch.allclose(plain, logits(tokens, positions + 32), atol=0.01)
    assert torch.allclose(plain, logits(tokens + 7, positions), atol=ROUNDING)  # ids beyond fall together with others


@pytest.mark.parametrize("seen_beside", ["positions", "stops"])
def test_a_network_looks_at_what_its_shape_has(tmp_path: Path, seen_beside: str) -> None:
    shape: dict[str, Any] = {seen_beside: True}
    again = load_policy(Path(saved(tmp_path / "mine", **shape))).network
    assert again.shape == PolicyShape(**shape)
    seen = torch.ones(1, 5, dtype=torch.bool)
    inputs = {"tokens": torch.arange(5)[None], "positions": torch.arange(5)[None], "stops": torch.arange(5)[None] > 2}
    other = {"tokens": inputs["tokens"] + 1, "positions": inputs["positions"] + 32, "stops": ~inputs["stops"]}

    def logits(**changed: Tensor) -> Tensor:
        return again(seen, torch.full((1, 5, 1), 0.5), torch.zeros(1), torch.zeros(1), seen, **{**inputs, **changed})

    for name, value in other.items():
        assert torch.allclose(logits(), logits(**{name: value}), atol=ROUNDING) == (name != seen_beside)


def test_a_network_that_reads_tokens_hears_of_confidence_only_as_it_learns_to() -> None:
    seen = torch.ones(1, 5, dtype=torch.bool)
    for vocabulary, hears in ((0, True), (7, False)):
        torch.manual_seed(0)
        network = PolicyNetwork(PolicyShape(vocabulary=vocabulary)).requires_grad_(False)
        network.start_at(-2.0)
        where = (torch.zeros(1), torch.zeros(1), seen, torch.arange(5)[None], torch.arange(5)[None])
        sure, unsure = (network(seen, torch.full((1, 5, 1), value), *where) for value in (9.0, -1.0))
        assert torch.allclose(sure, unsure, atol=ROUNDING) != hears


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize(("keep", "revises"), [(30.0, False), (-30.0, True)])
def test_a_policy_may_take_back_or_write_over_what_it_revealed(
    llada: Model, tmp_path: Path, keep: float, revises: bool, write: bool
) -> None:
    folder = tmp_path / "policy"
    network = PolicyNetwork(PolicyShape(remask=True))
    network.start_at(-30.0)  # one position a pass
    assert network.keep_proj is not None
    torch.nn.init.constant_(network.keep_proj.bias, keep)
    save_policy(folder, network, PolicyConfig(write=write))
    (request,) = by_policy(str(folder), 1)
    steps = list(Engine(llada).run([replace(request, max_forward_passes=30)]))
    takes_back = revises and not write
    assert any(step.remasked for step in steps) == takes_back
    assert any(step.written for step in steps) == (revises and write)
    assert len(steps) == (30 if takes_back else request.max_tokens)  # what is written over stays revealed


def test_speed_is_a_factor_for_policies_that_are_not_told_it(llada: Model, tmp_path: Path) -> None:
    folder = saved(tmp_path)
    passes = [
        sum(outcome[3] for outcome in outcomes(llada, by_policy(folder, speed=speed, mode="expected")))
        for speed in (0.0, 0.5, 1.0)
    ]
    assert passes == sorted(passes, reverse=True)
    assert passes[0] > passes[1] > passes[2]


def test_a_policy_reads_hidden_states_of_the_model_it_was_trained_for(llada: Model, tmp_path: Path) -> None:
    width = llada.network.architecture.hidden_size
    folder = saved(tmp_path / "reads", hidden=width)
    requests = by_policy(folder)
    assert outcomes(llada, requests) == [outcomes(llada, [request])[0] for request in requests]
    blind = saved(tmp_path / "blind")
    assert outcomes(llada, requests) != outcomes(llada, by_policy(blind))
    other = by_policy(saved(tmp_path / "other", hidden=width + 1), 1)
    with pytest.raises(SchedulerError, match="hidden states of 33 numbers and the model's have 32; use it"):
        Engine(llada).results(other)


def test_what_a_policy_needs_depends_on_its_weights(tmp_path: Path) -> None:
    assert not hasattr(LearnedPolicy, "needs")
    for hidden in (0, 32):
        folder = saved(tmp_path / f"hidden-{hidden}", hidden=hidden)
        assert parse_scheduler("policy", {"policy": folder}).needs().hidden == bool(hidden)
    for remask in (False, True):
        folder = saved(tmp_path / str(remask), remask=remask)
        assert parse_scheduler("policy", {"policy": folder}).needs().remask == remask
    folder = saved(tmp_path / "writes", remask=True)
    (Path(folder) / "policy.json").write_text('{"write": true}')
    needs = parse_scheduler("policy", {"policy": folder}).needs()
    assert (needs.remask, needs.write) == (False, True)


def test_a_policy_that_sees_everything_needs_passes_that_compute_it(llada: Model, tmp_path: Path) -> None:
    (request,) = by_policy(saved(tmp_path / "whole"), 1)
    with pytest.raises(RequestError, match=r"wants to see the whole generation region.*use cache none") as caught:
        Engine(llada).submit(replace(request, cache=parse_cache("dual")))
    assert caught.value.param == "cache"
    (request,) = by_policy(saved(tmp_path / "block", "block"), 1)
    for cache in ("prefix:refresh=1", "dual:refresh=1"):
        cached = replace(request, cache=parse_cache(cache))
        assert outcomes(llada, [cached]) == outcomes(llada, [request])


def test_a_block_causal_model_takes_policies_that_see_the_block(tmp_path: Path) -> None:
    model = load_model(str(FAMILIES["sdar"](tmp_path / "model", block_size=4)), device="cpu", dtype="float32")
    (request,) = by_policy(saved(tmp_path / "whole"), 1)
    with pytest.raises(RequestError, match=r"computes one block after another; use one that sees the block"):
        Engine(model).submit(replace(request, block_length=4))
    (request,) = by_policy(saved(tmp_path / "block", "block"), 1)
    assert Engine(model).results([replace(request, block_length=4)])
