"""When the events of one generation happened: metrics and traces read the times from here."""

import time
from dataclasses import dataclass, field

from unmask.engine.request import Request, Step
from unmask.engine.service import EngineError


@dataclass
class Timeline:
    """The times of one request. Each event is taken first, and read afterwards.

    submitted   on the monotonic clock, in seconds, as all times but the next one
    began       the same moment in nanoseconds since 1970
    first_pass  when the first pass ended, or when the request was submitted if none has
    settled     when the settled text grew last, or when the request was submitted
    gap         how long that took, if the last event has made the text grow
    texts       how often the settled text has grown
    blocks      when each block ended
    last        when the last event came
    """

    request: Request
    submitted: float = field(default_factory=time.monotonic)
    began: int = field(default_factory=time.time_ns)
    first_pass: float = field(init=False)
    settled: float = field(init=False)
    gap: float | None = None
    texts: int = 0
    blocks: list[float] = field(default_factory=list)
    last: float = field(init=False)
    _characters: int = 0

    def __post_init__(self) -> None:
        self.first_pass = self.settled = self.last = self.submitted

    def take(self, event: Step | EngineError) -> None:
        """Note when an event came."""
        self.last, self.gap = time.monotonic(), None
        if isinstance(event, EngineError):
            return
        if event.index == 0:
            self.first_pass = self.last
        if event.ended:
            self.blocks.append(self.last)
        if len(event.text) > self._characters:
            self.gap, self.settled = self.last - self.settled, self.last
            self.texts += 1
            self._characters = len(event.text)

    def wall(self, at: float) -> int:
        """A time of this timeline in nanoseconds since 1970."""
        return self.began + int((at - self.submitted) * 1e9)
