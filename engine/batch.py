"""Rows that share forward passes."""

from collections.abc import Callable, Sequence

from engine.canvas import Canvas
from engine.choosing import Chooser
from engine.recall import Recall


class Batch:
    """Rows that one forward pass computes together, and what is kept of them from pass to pass.

    padded  whether the rows of each scheduler are rounded up to one of a few numbers
    """

    def __init__(self, padded: bool):
        self.canvases: list[Canvas] = []  # row i belongs to canvas i
        self.chooser = Chooser()
        self.recall = Recall()
        self._padded = padded

    def join(self, canvases: Sequence[Canvas]) -> None:
        """Add rows."""
        self.canvases += canvases
        self.chooser.regroup(self.canvases, self._padded)

    def leave(self, goes: Callable[[Canvas], bool]) -> list[Canvas]:
        """Take out the rows that go, and return them."""
        gone = [canvas for canvas in self.canvases if goes(canvas)]
        if gone:
            self.canvases = [canvas for canvas in self.canvases if canvas not in gone]
            self.chooser.regroup(self.canvases, self._padded)
        return gone
