"""Structured output: whatever a model proposes, an answer that ended by `stop` has the form that was asked for."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

from tests.outcomes import outcome
from tests.rogues import registered
from tests.schemas import random_schema
from tests.synthetic import synthetic_dream, synthetic_llada
from unmask.engine import Engine, Request, Result
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError
from unmask.engine.proposal import KeptLogits, Proposal
from unmask.engine.structure import bytes, choice, json_object, json_of, matching
from unmask.engine.structure.automaton import TokenBytes, token_automaton
from unmask.engine.structure.bytes import byte_automaton
from unmask.engine.structure.constrain import Noise, StructureInputs, constrain
from unmask.engine.structure.paths import Union, best_paths
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

DRAWS = 3000
SAMPLING_ERROR = 0.05  # more than five standard deviations of a frequency of DRAWS
EDITING = ("credit", "joint")  # may write other tokens than the proposals
NAMES = [name for name in scheduler_names() if name not in ("policy", *EDITING)]
PERSON = json_of(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
    },
    "response_format",
)


@pytest.fixture(scope="module", params=["llada", "dream"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    write = {"llada": synthetic_llada, "dream": synthetic_dream}[request.param]
    return load_model(str(write(tmp_path_factory.mktemp("checkpoints") / request.param)), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model("llada-nano", device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def make(i: int = 0, scheduler: str = "topk", **fields: Any) -> Request:
    plain = Request(
        id=f"r{i}",
        prompt=tuple(range(3, 8 + i % 5)),
        max_tokens=48,
        block_length=16,
        scheduler=parse_scheduler(scheduler, {}),
        seed=i,
        structure=PERSON,
    )
    return replace(plain, **fields)


def alone(model: Model, request: Request) -> Result:
    return Engine(model).results([request])[request.id]


def check_person(result: Result) -> None:
    assert result.finish_reason == "stop"
    assert json.loads(result.text).keys() == {"name", "age"}


# --- the most probable text


@pytest.mark.parametrize("seed", range(6))
def test_the_best_path_is_the_best_of_all_texts(llada: Model, seed: int) -> None:
    tokens = TokenBytes.of(llada)
    draw = random.Random(seed)
    regex = draw.choice([r"(a|b)*ab?", r"a{2,3}|b+", r"(ab|ba|c)*"])
    automaton = token_automaton(byte_automaton(regex), tokens)
    width, left = draw.randint(2, 4), draw.randint(0, 2)
    scores = torch.randn(
        width, 1, automaton.classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    union = Union.of([automaton.tables(torch.device("cpu"))], automaton.classes, automaton.widest)
    zero = torch.tensor([0])
    path = best_paths(union, scores, zero, zero, torch.tensor([left]))[0].tolist()
    representative = {int(c): t for t, c in reversed(list(enumerate(automaton.class_of.tolist())))}

    def ends(text: tuple[int, ...]) -> bool:
        state: int | None = 0
        for cls in text:
            state = None if state is None else automaton.after(state, representative[cls])
        return state is not None and automaton.distance[state] <= left

    texts = [text for text in product(range(automaton.classes), repeat=width) if ends(text)]
    best = max(texts, key=lambda text: sum(float(scores[i, 0, c]) for i, c in enumerate(text)))
    assert path == list(best)


def drawn(llada: Model, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """How often "a", "b" and "c" are drawn of log-probabilities 0, -1 and -2, where all else is as probable as "a"."""
    automaton = token_automaton(byte_automaton("[abc]"), TokenBytes.of(llada))
    tables = [automaton.tables(torch.device("cpu"))] * DRAWS
    zeros, rows = torch.zeros(DRAWS, dtype=torch.long), torch.arange(DRAWS)
    logits = torch.zeros(DRAWS, len(automaton.class_of))
    ids = torch.tensor([llada.tokenizer.encode(letter)[0] for letter in "abc"])
    logits[:, ids] = torch.tensor([0.0, -1.0, -2.0])
    noise = Noise(
        rows, zeros, torch.full((DRAWS,), temperature), torch.full((DRAWS,), top_p), zeros + top_k, zeros.float()
    )
    inputs = StructureInputs(
        *(rows, rows, zeros),
        *(zeros[:0],) * 3,
        *(zeros, zeros, zeros + 1),
        *(1, automaton.classes, automaton.widest),
        noise,
    )
    free = Proposal(zeros, torch.zeros(DRAWS))
    found = constrain(free, KeptLogits(lambda x: x, logits), torch.zeros(logits.shape[1]), inputs, tables)
    assert torch.allclose(found.confidence, logits.softmax(1)[rows, found.ids])
    return (found.ids[:, None] == ids).float().mean(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_that_fit_are_drawn_from_the_softmax(llada: Model, temperature: float) -> None:
    expected = (torch.tensor([0.0, -1.0, -2.0]) / temperature).softmax(0)
    assert (drawn(llada, temperature) - expected).abs().max() < SAMPLING_ERROR


def test_what_top_k_excludes_is_taken_only_if_nothing_else_fits(llada: Model) -> None:
    assert drawn(llada, 1.0, top_k=1).sum() == 1
    assert drawn(llada, 0.5, top_p=0.9)[2] == 0


# --- every answer has its form


@pytest.mark.parametrize("scheduler", [*NAMES, "greedy", "idle", "flip-flop", "second-thoughts", "counting"])
def test_every_scheduler_and_cache_keeps_the_form(llada: Model, scheduler: str) -> None:
    whole = parse_scheduler(scheduler, {}).needs().window == "generation"  # which the engine refuses with a cache
    shapes = [(48, 16, 0.0), (24, 5, 1.0), (20, 20, 0.7), (21, 1, 2.0)]
    requests = [
        make(
            i,
            scheduler,
            max_tokens=length,
            block_length=block,
            temperature=t,
            cache=parse_cache("none" if whole else cache),
        )
        for i, (cache, (length, block, t)) in enumerate(product(("none", "prefix", "dual"), shapes))
    ]
    for result in Engine(llada).results(requests).values():
        check_person(result)


def random_requests(seed: int, count: int) -> list[tuple[dict[str, Any], Request]]:
    draw = random.Random(seed)
    found = list[tuple[dict[str, Any], Request]]()
    while len(found) < count:
        schema, length = random_schema(draw), draw.choice([40, 64, 96])
        request = make(
            len(found),
            draw.choice([*NAMES, "second-thoughts"]),
            max_tokens=length,
            block_length=draw.choice([1, 7, 16, length]),
            temperature=draw.choice([0.0, 1.0]),
            top_p=draw.choice([1.0, 0.8]),
            top_k=draw.choice([0, 5]),
            max_forward_passes=draw.choice([None, None, 1, 5]),
            structure=json_of(schema, "response_format"),
        )
        found.append((schema, request))
    return found


def check_random(model: Model, seed: int, count: int) -> None:
    engine, schemas, refusals = Engine(model), dict[str, Any](), list[str]()
    for schema, request in random_requests(seed, count):
        try:
            engine.submit(request)
            schemas[request.id] = schema
        except RequestError as error:
            refusals.append(str(error))
    assert all("raise max_tokens" in refusal for refusal in refusals)
    assert len(schemas) > count / 2
    results = {step.request_id: step.result for step in engine.steps() if step.result is not None}
    for id, schema in schemas.items():
        assert results[id].finish_reason == "stop"
        jsonschema.validate(json.loads(results[id].text), schema)


@pytest.mark.parametrize("seed", range(2))
def test_answers_of_random_schemas_are_valid(llada: Model, seed: int) -> None:
    check_random(llada, seed, 25)


def test_answers_of_the_embedded_model_are_valid(nano: Model) -> None:
    check_random(nano, 100, 25)


# --- company


def test_alone_equals_in_a_crowd(model: Model) -> None:
    structures = [PERSON, None, choice(["yes", "no"], "x"), None, json_object("x"), matching(r"\d{3}-\d{4}", "x")]
    requests = [
        make(
            i,
            NAMES[i * 5 % len(NAMES)],
            structure=structures[i % 6],
            temperature=i // 6 % 2,
            block_length=(4, 16, 48)[i % 3],
        )
        for i in range(len(NAMES))
    ]
    engine, apart = Engine(model, max_rows=7), Engine(model)
    together = engine.results(requests)
    assert [outcome(together[r.id]) for r in requests] == [outcome(apart.results([r])[r.id]) for r in requests]


# --- what is forced


def test_what_has_no_alternative_costs_no_pass(llada: Model) -> None:
    result = alone(llada, make(structure=matching("the cat (sat|ran) on the mat", "x")))
    assert result.text in ("the cat sat on the mat", "the cat ran on the mat")
    assert result.forced >= len(result.token_ids) - 2
    assert result.forward_passes <= 2


def test_an_answer_without_alternatives_takes_one_pass(llada: Model) -> None:
    result = alone(llada, make(structure=choice(["the cat"], "x")))
    assert (result.text, result.forward_passes, result.finish_reason) == ("the cat", 1, "stop")


def test_each_position_is_reported_once(llada: Model) -> None:
    seen: list[int] = []
    for step in Engine(llada).run([make(block_length=5)]):
        seen += [reveal.position for reveal in step.revealed]
    assert len(seen) == len(set(seen))


# --- what is refused


def test_a_region_that_is_too_small_is_refused_with_what_it_needs(llada: Model) -> None:
    with pytest.raises(RequestError, match=r"shortest answer with the end of text has (\d+) tokens") as error:
        Engine(llada).prepare(make(max_tokens=5))
    needed = int(re.search(r"at least (\d+)", str(error.value))[1])  # type: ignore[index]
    assert error.value.param == "response_format"
    check_person(alone(llada, make(max_tokens=needed)))
    with pytest.raises(RequestError):
        Engine(llada).prepare(make(max_tokens=needed - 1))
    long = (3,) * (llada.max_positions - needed + 1)
    with pytest.raises(RequestError, match=f"shorten the prompt, beside which at most {needed - 1} fit"):
        Engine(llada).prepare(make(prompt=long, max_tokens=needed - 1))


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(a", "does not work"),
        ("(a|b)*a(a|b){18}", "states"),
        ("[^\\x00-\\x{10FFFF}]", "no text"),
        ("\ud800", "surrogate"),
    ],
)
def test_regexes_that_do_not_work_are_refused(
    llada: Model, regex: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytes, "MAX_SECONDS", 1)
    with pytest.raises(RequestError, match=reason):
        Engine(llada).prepare(make(structure=matching(regex, "structured_outputs")))


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"min_tokens": 2}, {"template": (5, *[None] * 46, 5)}])
def test_fields_that_exclude_a_structure_are_refused(llada: Model, fields: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="leave one of the two out"):
        Engine(llada).prepare(make(**fields))


@pytest.mark.parametrize("scheduler", EDITING)
def test_schedulers_that_write_other_tokens_are_refused(llada: Model, scheduler: str) -> None:
    request = Request("one", (3, 4), 48, 48, parse_scheduler(scheduler), structure=PERSON)
    with pytest.raises(RequestError, match=f"scheduler '{scheduler}' writes other tokens than the proposals"):
        Engine(llada).submit(request)
