"""The canvases of answers that may call tools, one after another."""

from collections.abc import Sequence
from dataclasses import replace

from unmask.engine.canvas import Canvas
from unmask.engine.engine import Engine
from unmask.engine.errors import RequestError
from unmask.engine.request import Request, Result
from unmask.server.tools.calling import Calling
from unmask.server.workers import Workers


class Turns:
    """Prepares the requests of some answers, and what follows each.

    asked    one request per answer, as if there were no tools
    calling  how they may call tools; `begin` says whether with their schemas
    """

    def __init__(self, calling: Calling, asked: Sequence[Request], engine: Engine, workers: Workers):
        self.calling = calling
        self._asked = asked
        self._engine = engine
        self._workers = workers

    def begin(self) -> list[Canvas]:
        """The first canvas of each answer. Takes the time to make an automaton of the tools, if they are new.

        Raises RequestError or SchedulerError.
        """
        self.calling = self._kept(self.calling)
        model = self._engine.model
        return [self._engine.prepare(self.calling.beginning(request, model)) for request in self._asked]

    async def follow(self, choice: int, request: Request, result: Result) -> Canvas | None:
        """The canvas that follows a request of an answer; None if the answer ends."""
        return await self._workers.run(self._next, self._asked[choice], request, result)

    def _next(self, asked: Request, request: Request, result: Result) -> Canvas | None:
        following = self.calling.following(asked, request, result, self._engine.model)
        return None if following is None else self._engine.prepare(following)

    def _kept(self, calling: Calling) -> Calling:
        try:
            return replace(calling, needed=self._engine.needed(calling.of_calls(self._asked[0])))
        except RequestError:
            if calling.loose is None:
                raise
            return self._kept(calling.loose)
