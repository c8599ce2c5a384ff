"""A scheduler that is watched while it decides as another one."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from unmask.schedulers import Decision, Scheduler, State, View


@dataclass(eq=False)
class Watched:
    """Keeps the options as it sees them: of each decision, the columns of all rows."""

    scheduler: Scheduler
    seen: list[dict[str, Tensor]] = field(default_factory=list)
    Options: ClassVar[type[Any]] = object

    def __post_init__(self) -> None:
        self.needs = self.scheduler.needs

    def decide(self, view: View, state: State) -> Decision:
        self.seen.append({name: column.clone() for name, column in view.options.items()})
        return self.scheduler.decide(view, state)
