"""Rows that share forward passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from unmask.engine.canvas import Canvas
from unmask.engine.decided import Change
from unmask.engine.feed import Feed
from unmask.engine.groups import Choice, GroupInputs, SchedulerGroups
from unmask.engine.plan import StepInputs
from unmask.engine.previous import PreviousHidden
from unmask.engine.request import Step
from unmask.schedulers import View


class Batch:
    """Rows that one forward pass computes together, and what is kept for them between passes."""

    def __init__(self, canvases: Sequence[Canvas]):
        self.canvases: list[Canvas] = []  # row i belongs to canvas i
        self.groups = SchedulerGroups()
        self.previous = PreviousHidden()
        self.feed = Feed()
        self.join(canvases)

    def join(self, canvases: Sequence[Canvas]) -> None:
        """Add rows."""
        self.canvases += canvases
        self.groups.regroup(self.canvases)

    @property
    def largest(self) -> Canvas:
        """The row with most columns; of equal ones, the newest."""
        return max(reversed(self.canvases), key=lambda canvas: len(canvas.ids))

    def choose(self, view: View, inputs: StepInputs, groups: Sequence[GroupInputs], stops: Tensor) -> Choice:
        """What the schedulers do, and what is kept of drafts; stops (V,) bool, ends of text. Raises SchedulerError."""
        if inputs.draft is None:
            return self.groups.choose(view, inputs.last_pass, groups)
        kept = inputs.draft.kept(view, stops)  # before a scheduler sees the view, as it might write into it
        unheard = frozenset(canvas.request.id for canvas in self.canvases if canvas.drafting)
        return inputs.draft.amended(self.groups.choose(view, inputs.last_pass, groups, unheard), kept)

    def advance(self, changes: Sequence[Change | None]) -> tuple[list[Step], tuple[str, ...]]:
        """Apply one forward pass. Returns the steps, and the requests for which the model computed NaN: those without a
        change."""
        rows = list(zip(self.canvases, changes, strict=True))
        steps = [canvas.advance(*change) for canvas, change in rows if change is not None]
        if records := self.groups.records:
            steps = [replace(step, record=records.get(step.request_id, {})) for step in steps]
        return steps, tuple(canvas.request.id for canvas, change in rows if change is None)

    def leave(self, goes: Callable[[Canvas], bool]) -> list[Canvas]:
        """Take out the rows that go, and return them."""
        gone = [canvas for canvas in self.canvases if goes(canvas)]
        if gone:
            self.canvases = [canvas for canvas in self.canvases if not goes(canvas)]
            self.groups.regroup(self.canvases)
        return gone
