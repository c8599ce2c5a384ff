"""An option means what its declared type says, whoever else is in the batch; over every registered scheduler."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import EntryPoints, entry_points
from typing import Any

import pytest
import torch

from tests.outcomes import outcome
from tests.rogues import ROGUES, registered
from tests.synthetic import synthetic_llada
from tests.test_schedulers import view
from tests.watched import Watched
from unmask.engine import Engine, Request
from unmask.models.loading import Model, load_model
from unmask.policies.rollout import _expert_choice
from unmask.schedulers import (
    SchedulerSpec,
    json_schema,
    parse_scheduler,
    registry,
    scheduler_class,
    scheduler_names,
)

DTYPES = {"integer": torch.int64, "number": torch.float32}


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(str(synthetic_llada(tmp_path_factory.mktemp("checkpoint"))), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def rogues() -> Iterator[None]:
    with registered():
        yield


def numeric(name: str) -> dict[str, dict[str, Any]]:
    """The JSON schemas of a scheduler's numeric options, with whether each may be null."""
    schemas = json_schema(scheduler_class(name).Options)["properties"]
    kinds = {option: schema["type"] for option, schema in schemas.items()}
    listed = {option: kind if isinstance(kind, list) else [kind] for option, kind in kinds.items()}
    return {o: {**schemas[o], "nullable": "null" in kind} for o, kind in listed.items() if kind[0] in DTYPES}


NULLABLE = [
    (name, option)
    for names in ([*scheduler_names()], ROGUES)
    for name in names
    for option, kind in (
        (f.name, f.type) for f in (ROGUES.get(name) or scheduler_class(name)).Options.__dataclass_fields__.values()
    )
    if "None" in str(kind) and ("int" in str(kind) or "float" in str(kind))
]


def request(id: str, spec: SchedulerSpec) -> Request:
    return Request(id, tuple(range(3, 8)), 12, 4, spec, seed=len(id))


def test_some_options_may_be_null() -> None:
    assert {("topk", "steps"), ("floor", "floor"), ("floor", "most")} <= set(NULLABLE)


@pytest.mark.parametrize(("name", "option"), NULLABLE)
def test_an_option_that_is_null_means_the_same_beside_a_number(llada: Model, name: str, option: str) -> None:
    """And a number beside null; in type, in value and in what is decided."""
    schema = numeric(name)[option]
    number = max(schema.get("minimum", 0), 1) * (0.5 if schema["type"][0] == "number" else 1)
    for own, other in ((None, number), (number, None)):
        watched = Watched(parse_scheduler(name).scheduler())
        mine, theirs = (replace(parse_scheduler(name, {option: value}), instance=watched) for value in (own, other))
        alone = Engine(llada).results([request("r", mine)])["r"]
        seen, watched.seen = watched.seen, []
        beside = Engine(llada).results([request("r", mine), request("neighbour", theirs)])["r"]
        assert outcome(beside) == outcome(alone)
        for column in (seen[0][option][:1], watched.seen[0][option][:1]):
            assert column.dtype == DTYPES[schema["type"][0]]
        torch.testing.assert_close(watched.seen[0][option][:1], seen[0][option][:1], equal_nan=True)


@pytest.mark.parametrize("name", [*scheduler_names(), *ROGUES])
def test_the_declared_type_decides(llada: Model, name: str) -> None:
    watched = Watched(parse_scheduler(name).scheduler())
    spec = replace(parse_scheduler(name), instance=watched)
    Engine(llada).results([replace(request("r", spec), max_forward_passes=2)])
    assert {option: column.dtype for option, column in watched.seen[0].items()} == {
        option: DTYPES[schema["type"][0] if schema["nullable"] else schema["type"]]
        for option, schema in numeric(name).items()
    }


def test_an_expert_of_training_sees_the_same() -> None:
    seen = view([[0.5, 0.9, 0.1]])
    assert not _expert_choice(parse_scheduler("floor"), seen).any()  # nothing is above null
    assert _expert_choice(parse_scheduler("floor", {"floor": 0}), seen).sum() == 2  # -1 % 3


def test_names_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def counted(group: str) -> EntryPoints:
        calls.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(registry, "entry_points", counted)
    registry.installed_names.cache_clear()
    assert scheduler_names() == scheduler_names()
    assert len(calls) == 1
    scheduler_names().clear()  # a list of one's own
    assert scheduler_names()
