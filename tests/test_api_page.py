"""docs/api.md says what the server does: its tables are those of the types, its examples give these answers."""

import re
from collections.abc import Iterator

import pytest

from tests.api_page import EXAMPLE, PAGE, asking, classes, render, stable, wire_type
from tests.live import Live, live


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def test_tables_and_answers_are_up_to_date(server: Live, page: str) -> None:
    """If not: `python -m tests.api_page` writes them anew."""
    assert stable(render(page, asking(server.http))) == stable(page)


def test_every_endpoint_is_there(server: Live, page: str) -> None:
    told = set(re.findall(r"^#+ .*?`(?:GET|POST) (/\S*)`", page, re.MULTILINE))
    told |= set(re.findall(r"^\| `(?:GET|POST) (/\S*)`", page, re.MULTILINE))
    routes = set(server.http.get("/openapi.json").json()["paths"])
    assert routes - told == set()


def test_every_type_has_its_table(server: Live, page: str) -> None:
    """Of what comes in and what goes out; the framework's own types of errors are none."""
    named = {name.rpartition(".")[2] for name in classes(page)}
    known = server.http.get("/openapi.json").json()["components"]["schemas"].keys()
    assert known - named - {"HTTPValidationError", "ValidationError"} == set()


def test_what_types_inherit_has_its_table(page: str) -> None:
    """As their own tables leave it out."""
    named = classes(page)
    bases = {base for name in named for base in wire_type(name).__mro__ if getattr(base, "model_fields", {})}
    assert {f"{base.__module__.removeprefix('unmask.server.wire.')}.{base.__name__}" for base in bases} == named


def test_every_field_has_a_meaning(page: str) -> None:
    assert "|  |\n" not in page


def test_examples_are_many_and_succeed(server: Live, page: str) -> None:
    examples = EXAMPLE.findall(page)
    assert len(examples) == page.count("curl -s localhost:8000") >= 12
    refused = [answer for *_, answer in examples if answer.startswith('{\n  "error"')]
    assert len(refused) == 1  # the one that shows an error
