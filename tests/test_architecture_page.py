"""docs/architecture.md says how the code is built: every file, module, class, function and test that it names exists.

A code span of the page is one of these; anything else, such as a command, holds a space, or begins with `/` or `--`:

    engine/batch.py, models/       a file, or a folder with a slash at the end
    engine/batch.py::Batch.join    what a file defines
    unmask.engine                  a module, or what one defines
    Canvas, Step.text, prefix      a name, with its class or without, or a text that stands in the code
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from tests.sizes import ROOT, parse, product_files

PAGE = ROOT / "docs" / "architecture.md"
FENCE = re.compile(r"```.*?```", re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def named(page: str) -> list[str]:
    """What the page names in code spans, outside of code blocks."""
    spans = SPAN.findall(FENCE.sub("", page))
    return [span for span in spans if not re.search(r"^/|^--|\s", span)]


def missing(page: str) -> list[str]:
    """The names on the page that stand for nothing."""
    return [name for name in named(page) if not exists(name)]


def exists(name: str) -> bool:
    file, _, defined = name.partition("::")
    if defined:
        return (ROOT / file).is_file() and defined in definitions(ROOT / file)
    if name.startswith("unmask."):
        return is_importable(name)
    if "/" in name or Path(name).suffix in (".md", ".py", ".toml", ".json", ".txt"):
        return (ROOT / name).is_dir() if name.endswith("/") else (ROOT / name).is_file()
    return name in known()


def is_importable(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return attribute in dir(import_module(module)) or bool(import_module(name))
    except ImportError:
        return False


@cache
def known() -> frozenset[str]:
    """Every name that the product defines, with its class and without, and every text in it."""
    trees = {file: parse(file) for file in product_files()}
    defined = {name for file in trees for name in definitions(file)}
    inner = {name.rpartition(".")[2] for name in defined}
    constants = (node.value for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return frozenset(defined | inner | {value for value in constants if isinstance(value, str)})


@cache
def definitions(file: Path) -> frozenset[str]:
    """`name` and `Class.member` of all that a file defines."""
    return frozenset(_definitions(parse(file), ""))


def _definitions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name
        targets = child.targets if isinstance(child, ast.Assign) else [getattr(child, "target", None)]
        yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            attributes = [each for each in ast.walk(child) if isinstance(each, ast.Attribute)]
            yield from (prefix + each.attr for each in attributes if isinstance(each.ctx, ast.Store))


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text()


def test_every_name_on_the_page_exists(page: str) -> None:
    assert len(named(page)) > 200
    assert missing(page) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "engine/nowhere.py",
        "engine/engine.py::Engine.nothing",
        "engine/engine.py::plan_step",  # imported there, and not its own
        "tests/test_engine.py::test_nothing",
        "unmask.engine.nowhere",
        "Engine.nothing",
        "NoSuchThing",
        "nowhere/",
    ],
)
def test_a_name_that_is_gone_is_found(wrong: str) -> None:
    assert missing(f"See `{wrong}` and `engine/engine.py`.") == [wrong]


def test_every_link_leads_somewhere(page: str) -> None:
    assert [link for link in LINK.findall(page) if not (PAGE.parent / link).exists()] == []


def test_every_room_has_its_row(page: str) -> None:
    rooms = {file.relative_to(ROOT).parts[0] for file in product_files()}
    assert [room for room in sorted(rooms) if f"| `{room}/` |" not in page] == []


def test_every_invariant_has_its_test(page: str) -> None:
    section = page.partition("## What the engine promises")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d) \|.*`tests/\w+\.py::test_\w+`", section, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 9)]
