"""The recipe: its loss against numbers worked by hand, its batches, exact resuming, and the checkpoint it writes."""

import json
import math
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from unmask import weights
from unmask.evals.recipe.blueprints import BLUEPRINTS, CLOCK, MICRO, NANO, WIDTHS, Blueprint
from unmask.evals.recipe.card import SCHEDULERS, markdown_table, parameter_count
from unmask.evals.recipe.data import BLOCK_LENGTHS, Batch, Encoder, Rows, Steps, draw_masks, load
from unmask.evals.recipe.residual import ResidualInput
from unmask.evals.recipe.tokenizer import build_tokenizer, save_tokenizer, token_id
from unmask.evals.recipe.train import INITIAL_STD, Recipe, Trainer, masked_diffusion_loss
from unmask.evals.tasks import clock_turns
from unmask.models.errors import CheckpointError
from unmask.models.loading import load_model
from unmask.schedulers import parse_scheduler_text

ROUNDING = 1e-6
CPU = torch.device("cpu")
HOURS = range(1, clock_turns.HOURS + 1)  # all that is written of a clock; its vocabulary has no room for more


@cache
def tokenizer_of(name: str) -> Tokenizer:
    return build_tokenizer(BLUEPRINTS[name])


@pytest.fixture(autouse=True)
def each_tokenizer_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer makes its own, and is made often here."""
    monkeypatch.setattr("unmask.evals.recipe.train.build_tokenizer", lambda blueprint: tokenizer_of(blueprint.name))


@pytest.fixture(scope="module", params=BLUEPRINTS)
def made(request: pytest.FixtureRequest) -> tuple[Blueprint, Tokenizer]:
    """A blueprint and its tokenizer."""
    return BLUEPRINTS[request.param], tokenizer_of(request.param)


def test_the_loss_is_the_cross_entropy_of_masked_tokens_by_their_weights() -> None:
    tokens = torch.tensor([[0, 1, 0], [1, 1, 1]])
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)], [9.0, 0.0]], [[0.0, 0.0], [5.0, 5.0], [math.log(7), 0.0]]])
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.5, 0.0, 1.0]])
    right = [-2 * math.log(3 / 4), -0.5 * math.log(1 / 2) - math.log(1 / 8)]
    rows = masked_diffusion_loss(logits, Batch(tokens, tokens, weight, torch.zeros(2, dtype=torch.long)))
    assert rows.tolist() == pytest.approx(right, abs=ROUNDING)


def empty_rows(answer: Tensor, solved: Tensor) -> Rows:
    """Rows of token 0 whose answers and padding lie as given."""
    return Rows(torch.zeros_like(answer, dtype=torch.long), answer, solved, torch.zeros(len(answer), dtype=torch.long))


def test_masks_fall_on_answers_in_proportion_to_t_and_weigh_its_inverse() -> None:
    answer = torch.zeros(512, 100, dtype=torch.bool)
    answer[:, 20:] = True
    batch = draw_masks(empty_rows(answer, torch.full((512,), 9)), 7, torch.Generator().manual_seed(0))
    masked = batch.canvas == 7
    assert torch.equal(masked, batch.weight > 0)
    assert not masked[:, :20].any()
    t = 1 / (batch.weight.max(1).values * 80 * 512)  # of the rows with a mask
    some = masked.any(1)
    assert ((masked.sum(1) / 80 - t).abs() < 0.25)[some].all()
    assert t[some].sort().values.diff().max() < 0.05  # evenly spread
    assert not batch.tokens.any()


def test_masks_by_blocks_leave_what_decoding_by_blocks_leaves() -> None:
    """Before the block all is given, after it all is masked; only the block has a weight."""
    answer = torch.ones(400, 100, dtype=torch.bool)
    answer[:, :20] = False
    batch = draw_masks(empty_rows(answer, torch.full((400,), 40)), 7, torch.Generator().manual_seed(0), block_share=1.0)
    masked = batch.canvas == 7
    ends = set()
    for later, weight in zip(masked & (batch.weight == 0), batch.weight, strict=True):
        end, drawn = 100 - int(later.sum()), weight.nonzero()[:, 0].tolist()
        assert later[end:].all()
        assert any((end - 20) % length == 0 and {*drawn} <= {*range(end - length, end)} for length in BLOCK_LENGTHS)
        ends.add(end - 20)
    assert masked[batch.weight > 0].all()
    assert ends == {8, 16, 24, 32, 40, 48, 64}  # of the blocks that begin before the padding


def test_masks_by_blocks_weigh_a_place_alike_however_long_the_solution_is() -> None:
    """Who drew blocks evenly and weighed them alike would see the first block of short solutions more often."""
    answer = torch.ones(4000, 64, dtype=torch.bool)
    solved = torch.tensor([5, 64]).repeat(2000)
    generator = torch.Generator().manual_seed(0)
    rows = empty_rows(answer, solved)
    weight = torch.stack([draw_masks(rows, 7, generator, block_share=1.0).weight for _ in range(20)]).mean(0)
    short, long = (weight[solved == length, :5].sum().item() for length in (5, 64))
    plain = 5 / 64 / 2  # of the objective's 1, by the half of the rows
    assert short == pytest.approx(plain, rel=0.05)
    assert long == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("width", [min(WIDTHS), max(WIDTHS)])
def test_rows_hold_prompts_then_answers_then_end_of_text(made: tuple[Blueprint, Tokenizer], width: int) -> None:
    blueprint, tokenizer = made
    ends = {token_id(tokenizer, "eos_token"), token_id(tokenizer, "end_of_turn")}
    sizes = blueprint.sizes(8)
    rows = Steps(blueprint.tasks, sizes, WIDTHS, tokenizer, seed=0).rows(5, width)
    assert rows.tokens.shape == (sum(sizes.values()), width)
    names = list(blueprint.tasks)
    assert [names[number] for number in rows.task] == [name for name in names for _ in range(sizes[name])]
    drawn = {name: list(islice(task.problems(5, "train"), 400)) for name, task in blueprint.tasks.items()}
    for tokens, answer, number in zip(rows.tokens, rows.answer, rows.task.tolist(), strict=True):
        name = names[number]
        completion = tokens[answer].tolist()
        written = next(i for i, token in enumerate(completion) if token in ends)
        prompt, solution = tokenizer.decode(tokens[~answer].tolist()), tokenizer.decode(completion[:written])
        assert any(problem.prompt in prompt and problem.solution == solution for problem in drawn[name])
        assert written < blueprint.tasks[name].max_tokens
        assert set(completion[written + 1 :]) <= {token_id(tokenizer, "eos_token")}


def test_every_problem_fits_the_widest_rows(made: tuple[Blueprint, Tokenizer]) -> None:
    blueprint, tokenizer = made
    encode = Encoder(tokenizer)
    for task in blueprint.tasks.values():
        for problem in islice(task.problems(1, "train"), 500):
            assert sum(map(len, encode(problem, chat=True))) <= max(WIDTHS)


def test_numbers_are_tokens_and_fit_the_embedding(made: tuple[Blueprint, Tokenizer]) -> None:
    blueprint, tokenizer = made
    for number in HOURS if blueprint is CLOCK else range(blueprint.numbers + 1):
        assert len(tokenizer.encode(str(number)).ids) == len(tokenizer.encode(f" {number}").ids) == 1
    assert tokenizer.get_vocab_size() <= blueprint.architecture.vocab_rows


def test_the_shipped_tokenizer_is_what_the_recipe_makes(tmp_path: Path) -> None:
    save_tokenizer(tokenizer_of(NANO.name), tmp_path)
    shipped = weights.find("llada-nano")
    assert shipped is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((shipped / name).read_text())
    config = json.loads((shipped / "config.json").read_text())
    assert {key: config[key] for key in NANO.config} == NANO.config


def test_a_checkpoint_fits_in_16_mib() -> None:
    assert parameter_count(MICRO.architecture) * 2 <= 16 << 20
    assert parameter_count(NANO.architecture) * 4 <= 16 << 20


def test_steps_do_not_depend_on_who_makes_them(made: tuple[Blueprint, Tokenizer]) -> None:
    blueprint, tokenizer = made
    name, task = list(blueprint.tasks.items())[-1]
    steps = Steps({name: task}, {name: 2}, WIDTHS, tokenizer, seed=3)
    alone = list(load(steps, 4, 8, workers=0))
    for mine, theirs in zip(alone, load(steps, 4, 8, workers=2), strict=True):
        assert all(map(torch.equal, mine, theirs))
    assert len({batch.canvas.sum().item() for batch in alone}) == 4


def train(out: Path, stop_after: int | None = None) -> list[dict[str, object]]:
    """Four small steps, saved every second one, killed after some if asked; returns the log."""
    out.mkdir(exist_ok=True)
    trainer = Trainer(Recipe(steps=4, batch_size=2), out, CPU, compile_network=False)
    update = trainer.update

    def killed(batch: Batch) -> Tensor:
        if trainer.step == stop_after:
            raise KeyboardInterrupt
        return update(batch)

    trainer.update = killed  # type: ignore[method-assign]
    trainer.run(save_every=2)
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop_after=3)
    resumed = train(tmp_path / "killed")
    assert [line["step"] for line in resumed] == [1, 2, 3, 4]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]
    one, other = (load_model(str(tmp_path / name), device="cpu").network.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="go on with the same settings or choose another --out"):
        Trainer(Recipe(steps=4, batch_size=3), tmp_path / "killed", CPU, compile_network=False)


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


@pytest.mark.parametrize("source", ["own", "llada-nano"])
def test_residual_training_feeds_what_a_first_forward_thought_of_masks(source: str) -> None:
    nano = load_model("llada-nano", device="cpu", dtype="float32")
    network, mask = nano.network, nano.mask_id
    canvas = torch.tensor([[5, mask, 7, mask], [mask, 5, 6, 9]])
    given = ResidualInput(source, network, mask, CPU).given(network, canvas)
    assert given.index.tolist() == ([1, 3] if source == "own" else [1, 3, 4])
    logits = network.logits(canvas).flatten(0, 1)[given.index]
    table = network.embed.weight
    for vector, z in zip(given.vectors, logits, strict=True):
        p = z.softmax(-1)
        share = -(p * p.log()).sum() / math.log(len(p))
        torch.testing.assert_close(vector, (1 - share) * table[mask] + share * (p @ table), atol=1e-5, rtol=0)
    assert not torch.equal(network.logits(canvas, given), network.logits(canvas))


def test_a_network_in_training_attends_as_when_it_answers() -> None:
    """There it takes another way, which is quicker backwards."""
    network = Trainer(Recipe(steps=1), Path("unused"), CPU, compile_network=False).network
    canvas = torch.randint(5, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    learning = network.logits(canvas)
    assert learning.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(learning.detach(), network.logits(canvas), atol=1e-5, rtol=0)


def test_gradients_of_residual_training_reach_the_embeddings_and_stop_at_the_first_forward() -> None:
    trainer = Trainer(Recipe(steps=1, batch_size=2, residual="own"), Path("unused"), CPU, compile_network=False)
    network, mask = trainer.network, token_id(trainer.tokenizer, "mask_token")
    canvas = torch.tensor([[5, mask, 7, mask]])
    assert trainer._residual is not None
    trainer._residual.given(network, canvas).vectors.sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is not None] == ["embed.weight"]
    assert network.embed.weight.grad is not None
    assert network.embed.weight.grad[9].any()  # of a token that no canvas holds


@pytest.mark.parametrize("source", ["own", "llada-nano"])
def test_a_model_is_trained_for_residual_input_and_is_known_by_its_name(tmp_path: Path, source: str) -> None:
    recipe = Recipe(steps=6, batch_size=4, learning_rate=1e-3, residual=source, start="llada-nano")
    trainer = Trainer(recipe, tmp_path / "RCD-nano", CPU, compile_network=False)
    trainer.out.mkdir()
    trainer.run(save_every=20)
    losses = [sum(json.loads(line)["loss"].values()) for line in (trainer.out / "train.jsonl").read_text().splitlines()]
    assert median(losses) < 1  # a model that knows its tasks has started; new weights have a loss of 12
    model = load_model(str(trainer.out), device="cpu")
    assert model.input_state == "residual"
    assert not torch.equal(model.network.embed.weight, load_model("llada-nano", device="cpu").network.embed.weight)


def test_weights_of_another_vocabulary_go_by_the_text_of_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = Trainer(Recipe(steps=1, model="llada-clock", start="llada-trace"), tmp_path, CPU, compile_network=False)
    own, known = trainer.tokenizer.get_vocab(), load_model("llada-trace", device="cpu", dtype="float32")
    assert known.tokenizer.token_id("Ġclock") is None
    new, old = trainer.network.state_dict(), known.network.state_dict()
    for name in ("embed.weight", "head.weight"):
        here, there = new[name], old[name]
        for text in ("Ġstep", ":", "Tom", "<|mdm_mask|>"):
            assert torch.equal(here[own[text]], there[known.tokenizer.token_id(text)])
        assert here[own["Ġclock"]].std() == pytest.approx(INITIAL_STD, rel=0.3)
        assert not (there == here[own["Ġclock"]]).all(1).any()
    assert torch.equal(new["blocks.4.ffn.down.weight"], old["blocks.4.ffn.down.weight"])


def test_weights_and_references_of_another_shape_are_refused(tmp_path: Path) -> None:
    from tests.synthetic import synthetic_llada

    other = str(synthetic_llada(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="has another shape than what is trained"):
        Trainer(Recipe(steps=1, start=other), tmp_path, CPU, compile_network=False)
    with pytest.raises(CheckpointError, match=r"has 288 embeddings and the mask \d+, and what is trained has 448"):
        Trainer(Recipe(steps=1, residual=other), tmp_path, CPU, compile_network=False)
