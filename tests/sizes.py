"""How long functions and files are: `python -m tests.sizes` prints the figures, and fails when a limit is passed.

A function counts from `def` to its last line, docstring and blank lines included; one inside another counts in both.
"""

import ast
import math
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("schedulers", "models", "engine", "evals", "policies", "server", "weights")
MEDIAN_FUNCTION = 10
P90_FUNCTION = 30
LONGEST_FUNCTION = 60
LONGEST_FILE = 399


@dataclass(frozen=True, order=True)
class Length:
    lines: int
    where: str


@dataclass(frozen=True)
class Figure:
    """One measured number and the largest it may be."""

    what: str
    length: Length
    limit: int

    @property
    def kept(self) -> bool:
        return self.length.lines <= self.limit

    def __str__(self) -> str:
        verdict = "" if self.kept else "  <-- too long"
        return f"  {self.what:18}{self.length.lines:5} of {self.limit:3}  {self.length.where}{verdict}"


def product_files(root: Path = ROOT) -> list[Path]:
    """Every Python file that ships: the rooms, the command line, and what images are made with."""
    rooms = (file for room in ROOMS for file in (root / room).rglob("*.py"))
    return sorted([*root.glob("src/unmask/*.py"), *rooms, *root.glob("docker/*.py")])


def functions(file: Path) -> list[Length]:
    """Every function of a file, methods and inner functions included."""
    found = [node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [Length((node.end_lineno or 0) - node.lineno + 1, f"{file.name}:{node.name}") for node in found]


def figures(files: list[Path]) -> list[Figure]:
    """The four numbers that have limits. The files hold at least one function."""
    lengths = sorted(length for file in files for length in functions(file))
    longest_file = max(Length(lines(file), file.name) for file in files)
    return [
        Figure("median function", lengths[(len(lengths) - 1) // 2], MEDIAN_FUNCTION),
        Figure("90th percentile", lengths[math.ceil(0.9 * len(lengths)) - 1], P90_FUNCTION),
        Figure("longest function", lengths[-1], LONGEST_FUNCTION),
        Figure("longest file", longest_file, LONGEST_FILE),
    ]


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def main() -> int:
    """Print the figures of product and tests; 1 if one is over its limit, else 0."""
    kept = True
    for name, files in (("product", product_files()), ("tests", sorted((ROOT / "tests").rglob("*.py")))):
        count = sum(len(functions(file)) for file in files)
        print(f"{name}: {len(files)} files, {count} functions, {sum(map(lines, files))} lines")
        for figure in figures(files):
            print(figure)
            kept &= figure.kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
