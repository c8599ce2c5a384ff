"""The laws of the house that no linter knows. Each rule is seen to find a planted breach before it is trusted."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sizes import LONGEST_FILE, LONGEST_FUNCTION, ROOT, figures, functions, parse, product_files

LONGEST_STEP = 25  # the decode loop fits on one screen
RECIPE = "evals/recipe"
EMBEDDED_MODEL = "llada-nano"  # a checkpoint's name, not a family's
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

Rule = Callable[[ast.AST, str], bool]  # (a node, the file it is in) -> whether it breaks the rule


def calls_a_model(node: ast.AST, file: str) -> bool:
    """A network is called outside the room that defines it and the recipe that trains it."""
    return _callee(node).split(".")[-1] == "network" and not file.startswith(("models/", RECIPE))


def runs_code_from_a_checkpoint(node: ast.AST, file: str) -> bool:
    """Remote code is allowed, or pickled data read other than a training run's own as plain weights."""
    if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
        return not _is(node.value, False)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return "pickle" in (getattr(node, "module", None), *(alias.name for alias in node.names))
    if not isinstance(node, ast.Call) or _callee(node) != "torch.load":
        return False
    weights_only = any(keyword.arg == "weights_only" and _is(keyword.value, True) for keyword in node.keywords)
    return not (weights_only and file.startswith((RECIPE, "policies/run_state.py")))


def knows_a_family(node: ast.AST, file: str) -> bool:
    """A model family is named in code of a room that serves all alike; docstrings may cite papers."""
    if not file.startswith(("engine/", "schedulers/", "server/")):
        return False
    names = [getattr(node, field, None) for field in ("id", "attr", "name", "arg", "module", "value")]
    text = " ".join(name for name in names if isinstance(name, str)).lower().replace(EMBEDDED_MODEL, "")
    return any(family in text for family in families())


def families() -> list[str]:
    return [file.stem for file in (ROOT / "models/families").glob("[!_]*.py")]


def breaches(rule: Rule, root: Path) -> list[str]:
    """The files that break a rule, one entry for each time."""
    files = [(file, file.relative_to(root).as_posix()) for file in product_files(root)]
    return [name for file, name in files for node in _code(parse(file)) if rule(node, name)]


def _code(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node but texts that stand alone, which are docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return (node for node in ast.walk(tree) if id(node) not in docstrings or not isinstance(node, ast.Constant))


def _callee(node: ast.AST) -> str:
    """The dotted name that a call calls; empty if the node is no call."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _is(node: ast.expr, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_one_place_calls_a_model() -> None:
    assert breaches(calls_a_model, ROOT) == ["engine/network.py"]


@pytest.mark.parametrize("rule", [runs_code_from_a_checkpoint, knows_a_family])
def test_rule_is_kept(rule: Rule) -> None:
    assert breaches(rule, ROOT) == []


@pytest.mark.parametrize(
    ("rule", "file", "code"),
    [
        (calls_a_model, "server/app.py", "logits = self.model.network(tokens)"),
        (calls_a_model, "evals/run.py", "network(tokens)"),
        (runs_code_from_a_checkpoint, "models/loading.py", "torch.load(file, weights_only=True)"),
        (runs_code_from_a_checkpoint, "evals/recipe/train.py", "torch.load(file)"),
        (runs_code_from_a_checkpoint, "models/tokenizer.py", "load(folder, trust_remote_code=True)"),
        (runs_code_from_a_checkpoint, "models/tokenizer.py", "load(folder, trust_remote_code=flag)"),
        (runs_code_from_a_checkpoint, "policies/data.py", "import pickle"),
        (runs_code_from_a_checkpoint, "policies/data.py", "from pickle import loads"),
        (knows_a_family, "engine/batch.py", "if model.family == 'LLaDA': pass"),
        (knows_a_family, "server/app.py", "from unmask.models.families import dream"),
        (knows_a_family, "schedulers/topk.py", "def llada_steps(): ..."),
    ],
)
def test_rule_finds_a_breach(rule: Rule, file: str, code: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    assert breaches(rule, tmp_path) == [file]


@pytest.mark.parametrize(
    ("file", "code", "kept"),
    [
        ("errors.py", "", True),
        ("wire/score.py", "import unmask.server.parse.score", False),
        ("parse/limits.py", "from unmask.server.backend import Backend", False),
        ("parse/limits.py", "import unmask.server.ops.metrics", False),  # beside it
        ("reply/sse.py", "def late():\n    import unmask.server.routes.score", False),
        ("elsewhere.py", "", False),  # a module without a layer
    ],
)
def test_the_order_of_the_server_is_kept(file: str, code: str, kept: bool, tmp_path: Path) -> None:
    """import-linter, with the server's contract, on a copy of the server in which more is imported."""
    shutil.copytree(ROOT / "server", tmp_path / "unmask/server", ignore=shutil.ignore_patterns("static", "__pycache__"))
    (tmp_path / "unmask/__init__.py").touch()
    with (tmp_path / "unmask/server" / file).open("a") as lines:
        lines.write(f"\n{code}\n")
    config = (ROOT / "pyproject.toml").read_text()
    (contract,) = re.findall(r"^\[\[[^[]*containers = \[\"unmask.server\"\].*?^\]$", config, re.DOTALL | re.MULTILINE)
    (tmp_path / "pyproject.toml").write_text(f'[tool.importlinter]\nroot_packages = ["unmask"]\n{contract}\n')
    lint = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", lint], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"Contracts: {int(kept)} kept, {int(not kept)} broken." in done.stdout


def test_step_fits_on_one_screen() -> None:
    (step,) = (length for length in functions(ROOT / "engine/engine.py") if length.where == "engine.py:step")
    assert step.lines <= LONGEST_STEP


@pytest.mark.parametrize(("lines", "kept"), [(LONGEST_FUNCTION, True), (LONGEST_FUNCTION + 1, False)])
def test_longest_function_is_measured(lines: int, kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("def long():\n" + "    x = 1\n" * (lines - 1))
    assert [figure.kept for figure in figures([file])] == [False, False, kept, True]


@pytest.mark.parametrize(("lines", "kept"), [(LONGEST_FILE, True), (LONGEST_FILE + 1, False)])
def test_longest_file_is_measured(lines: int, kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("def short(): ...\n" * lines)
    assert [figure.kept for figure in figures([file])] == [True, True, True, kept]


@pytest.mark.parametrize(("name", "value"), PROJECT["entry-points"]["unmask.schedulers"].items())
def test_scheduler_entry_point_loads(name: str, value: str) -> None:
    assert callable(EntryPoint(name, value, "unmask.schedulers").load())
    (installed,) = entry_points(group="unmask.schedulers", name=name)
    assert installed.value == value


def test_command_loads() -> None:
    (command,) = entry_points(group="console_scripts", name="unmask")
    assert command.value == PROJECT["scripts"]["unmask"]
    assert callable(command.load())


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"==[^+,*]+", str(pin.specifier)) for pin in pins)  # no build of one machine, no range
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
    assert {canonicalize_name(one.name) for one in wanted} <= {canonicalize_name(pin.name) for pin in pins}
