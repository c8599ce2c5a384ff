"""Sudoku on a 6 x 6 grid: digits 1 to 6 once in every row, column and box of two rows by three columns.

    Sudoku
     3 _ 1 ...           six rows; an underscore is an empty cell

Two more wordings put sentences around the grid; by default the first is drawn, which the embedded model knows.
The completion is the full grid, six rows of six digits. A puzzle is drawn so that single-candidate deductions alone
solve it: it has exactly one solution, and there is always a cell that can be filled with certainty, but seldom
all of them at once. Filling the certain cells first is what an unmasking scheduler should find.
"""

import random
import re
from dataclasses import dataclass
from functools import partial

from unmask.evals.tasks.base import DrawnTask

SIZE = 6
BOX_ROWS, BOX_COLUMNS = 2, 3
EMPTY_CELLS = (12, 20)
TEMPLATES = (
    "Sudoku\n{}",
    "Solve this Sudoku: every row, column and box holds each digit once.\n{}",
    "Here is a Sudoku:\n{}\nFill its empty cells.",
)
CELLS = range(SIZE * SIZE)

Grid = list[int]  # 36 digits in row order; 0 is an empty cell


def _box(cell: int) -> int:
    row, column = divmod(cell, SIZE)
    return row // BOX_ROWS * (SIZE // BOX_COLUMNS) + column // BOX_COLUMNS


UNITS = [(cell // SIZE, SIZE + cell % SIZE, 2 * SIZE + _box(cell)) for cell in CELLS]  # row, column, box of each cell
ALL_DIGITS = (1 << SIZE) - 1  # digit d is bit d - 1


@dataclass(frozen=True)
class SudokuProblem:
    prompt: str
    solution: str

    def grade(self, completion: str) -> bool:
        """Right when the completion holds 36 digits that equal the one solution; white space is free."""
        return re.sub(r"\s", "", completion) == re.sub(r"\s", "", self.solution)


def draw(rng: random.Random, template: int) -> SudokuProblem:
    solution = _full_grid(rng)
    while True:
        empty = set(rng.sample(CELLS, rng.randint(*EMPTY_CELLS)))
        puzzle = [0 if cell in empty else digit for cell, digit in enumerate(solution)]
        if _solve_by_singles(puzzle):
            return SudokuProblem(TEMPLATES[template].format(_render(puzzle)), _render(solution))


def _render(grid: Grid) -> str:
    rows = [grid[start : start + SIZE] for start in range(0, len(grid), SIZE)]
    return "\n".join("".join(f" {digit or '_'}" for digit in row) for row in rows)


class _Board:
    """A grid under construction: for every row, column and box, the set of digits in use."""

    def __init__(self, digits: Grid):
        self.digits = digits
        self.used = [0] * (3 * SIZE)
        self.empty = {cell for cell in CELLS if not digits[cell]}
        for cell in set(CELLS) - self.empty:
            self._mark(cell, 1 << digits[cell] - 1)

    def candidates(self, cell: int) -> int:
        row, column, box = UNITS[cell]
        return ALL_DIGITS & ~(self.used[row] | self.used[column] | self.used[box])

    def place(self, cell: int, bit: int) -> None:
        self.digits[cell] = bit.bit_length()
        self.empty.remove(cell)
        self._mark(cell, bit)

    def clear(self, cell: int) -> None:
        self._mark(cell, 1 << self.digits[cell] - 1)
        self.digits[cell] = 0
        self.empty.add(cell)

    def _mark(self, cell: int, bit: int) -> None:
        for unit in UNITS[cell]:
            self.used[unit] ^= bit


def _full_grid(rng: random.Random) -> Grid:
    """A random full grid, by depth-first search over the cells in order."""
    board = _Board([0] * len(CELLS))

    def fill(cell: int) -> bool:
        if cell == len(CELLS):
            return True
        bits = [1 << i for i in range(SIZE) if board.candidates(cell) >> i & 1]
        rng.shuffle(bits)
        for bit in bits:
            board.place(cell, bit)
            if fill(cell + 1):
                return True
            board.clear(cell)
        return False

    fill(0)
    return board.digits


def _solve_by_singles(puzzle: Grid) -> bool:
    """Whether filling cells that have one candidate left, again and again, fills the grid."""
    board = _Board(list(puzzle))
    progress = True
    while board.empty and progress:
        progress = False
        for cell in sorted(board.empty):
            bits = board.candidates(cell)
            if bits.bit_count() == 1:
                board.place(cell, bits)
                progress = True
    return not board.empty


_DRAWS = tuple(partial(draw, template=template) for template in range(len(TEMPLATES)))
TASK = DrawnTask("sudoku", "6 x 6 Sudoku puzzles with one solution", 48, _DRAWS[0], _DRAWS)
