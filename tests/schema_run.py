"""Many random schemas against random schedulers, block lengths, caches and temperatures: `python -m tests.schema_run`.

Each lot shares an engine with free requests. The models are the embedded one, and two synthetic ones, which write
random bytes. Prints a line per lot and the counts at the end; fails at the first answer that is wrong.
"""

import argparse
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from tests.schemas import random_schema
from tests.synthetic import synthetic_dream, synthetic_llada
from unmask.engine import Engine, Request
from unmask.engine.caching import parse_cache
from unmask.engine.errors import RequestError
from unmask.engine.structure import json_of
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler, scheduler_names

LOT = 50
EDITING = ("credit", "joint")  # refused: they write other tokens than the proposals
NEEDED = re.compile(r"raise max_tokens to at least (\d+)")
Case = tuple[dict[str, Any], Request]


def models(folder: Path) -> list[Model]:
    """The models to ask."""
    names = ["llada-nano", str(synthetic_llada(folder / "llada")), str(synthetic_dream(folder / "dream"))]
    return [load_model(name, device="cpu", dtype="float32") for name in names]


def cases(draw: random.Random, count: int, first: int) -> Iterator[Case]:
    """Random schemas, each with a random request for an answer of its form."""
    known = [name for name in scheduler_names() if name not in EDITING]
    for i in range(first, first + count):
        schema, length = random_schema(draw), draw.choice([6, 12, 24, 40, 96])
        scheduler = parse_scheduler(draw.choice(known), {})
        whole = scheduler.needs().window == "generation"  # which excludes caches
        request = Request(
            id=str(i),
            prompt=tuple(draw.randrange(3, 90) for _ in range(draw.randint(1, 20))),
            max_tokens=length,
            block_length=draw.choice([1, 7, 16, length]),
            scheduler=scheduler,
            seed=i,
            temperature=draw.choice([0.0, 0.7, 1.5]),
            top_p=draw.choice([1.0, 0.8]),
            top_k=draw.choice([0, 5]),
            max_forward_passes=draw.choice([None, None, 1, 5]),
            cache=parse_cache("none" if whole else draw.choice(["none", "prefix", "dual"])),
            structure=json_of(schema, "response_format"),
        )
        yield schema, request


def ask(engine: Engine, lot: list[Case], found: Counter[str]) -> None:
    """Ask for all of a lot at once, with free answers between; without room, again for as much as is needed."""
    asked = dict[str, dict[str, Any]]()
    for i, (schema, request) in enumerate(lot):
        if i % 3 == 0:
            engine.submit(replace(request, id=f"free {request.id}", structure=None))
        if (refusal := refused(engine, request)) is not None:
            found["asked again for as much as the refusal says is needed"] += 1
            room = int(NEEDED.search(refusal)[1])  # type: ignore[index]
            engine.submit(replace(request, max_tokens=room, block_length=min(request.block_length, room)))
        asked[request.id] = schema
    for step in engine.steps():
        if step.result is not None and step.request_id in asked:
            reason = step.result.finish_reason
            found[f"ended by {reason}"] += 1
            assert reason == "stop", (asked[step.request_id], step.result.text)
            jsonschema.validate(json.loads(step.result.text), asked[step.request_id])
            found["valid"] += 1
    assert not engine.running


def refused(engine: Engine, request: Request) -> str | None:
    """Submit a request; what the refusal says, if it is refused."""
    try:
        engine.submit(request)
    except RequestError as error:
        return str(error)
    return None


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--count", type=int, default=2000, help="schemas")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    draw, found, began = random.Random(given.seed), Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        asked = models(Path(folder))
        for number, first in enumerate(range(0, given.count, LOT)):
            model = asked[number % len(asked)]
            ask(Engine(model), list(cases(draw, min(LOT, given.count - first), first)), found)
            found[f"asked of {model.name}"] += min(LOT, given.count - first)
            print(f"{first + LOT} schemas, {time.monotonic() - began:.0f} s: {dict(found)}", flush=True)


if __name__ == "__main__":
    main()
