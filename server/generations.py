"""From the engine's thread to the event loop, and back when the client has left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from unmask.engine.canvas import Canvas
from unmask.engine.request import Request, Result, Step
from unmask.engine.service import GOING_DOWN, EngineError, EngineService, EngineStoppedError, OnStep
from unmask.server.caller import Deadline
from unmask.server.tools.calling import Calling, Part
from unmask.server.tools.parts import merged
from unmask.server.turns import Turns


class Generations:
    """Requests in the engine, and their steps. It must be closed in the end.

    requests  in the order of their submission: at first one per choice, then those that follow them
    choices   of each request, the choice that it writes a part of
    """

    def __init__(
        self,
        service: EngineService,
        follow: Callable[[Request], OnStep],
        canvases: Sequence[Canvas],
        every_step: bool,
        deadline: Deadline,
        turns: Turns | None = None,
    ):
        """Submit all canvases, or none; without `every_step` only their last steps arrive.

        A request of no tokens ends at once: the engine does not see it, and it is not followed.

        follow  makes a listener for all events of a request; it is called on the engine's thread
        turns   what follows a request of a choice that has ended

        Raises QueueFullError or EngineStoppedError.
        """
        self.requests = list[Request]()
        self.choices = list[int]()
        self._service = service
        self._follow = follow
        self._turns = turns
        self._results: dict[int, Result] = {}
        self._every_step = every_step
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._events: asyncio.Queue[tuple[int, Step | EngineError]] = asyncio.Queue()
        self._running: set[str] = set()
        try:
            for choice, canvas in enumerate(canvases):
                self._enqueue(choice, canvas)
        except EngineError:
            self.close()
            raise

    def _enqueue(self, choice: int, canvas: Canvas) -> None:
        index, request = len(self.requests), canvas.request
        if request.max_tokens:
            self._service.enqueue(canvas, self._listener(index, self._follow(request)))
        else:
            self._events.put_nowait((index, nothing(request)))
        self.requests.append(request)
        self.choices.append(choice)
        self._running.add(request.id)

    @property
    def calling(self) -> Calling | None:
        """The tools that answers may call."""
        return None if self._turns is None else self._turns.calling

    def part(self, index: int) -> Part:
        """Which part of its choice a request writes."""
        return "text" if self.calling is None else self.calling.part(self.requests[index])

    def answer(self, choice: int) -> list[tuple[Part, Result]]:
        """The parts of a choice, whose requests have all ended; empty before."""
        of_choice = [index for index, one in enumerate(self.choices) if one == choice]
        ended = all(index in self._results for index in of_choice)
        return [(self.part(index), self._results[index]) for index in of_choice] if ended else []

    async def steps(self) -> AsyncIterator[tuple[int, Step]]:
        """(index of the request, step) until all have ended. Raises EngineError if one could not.

        What follows a request is submitted before its last step comes out.
        """
        while self._running:
            index, event = await self._next()
            if isinstance(event, EngineError):
                raise event
            if event.result is not None:
                self._running.discard(event.request_id)
                if event.result.finish_reason == "cancelled":  # by the engine: after `close` nobody reads this
                    raise EngineStoppedError(GOING_DOWN)
                await self._continue(index, event.result)
            yield index, event

    async def _continue(self, index: int, result: Result) -> None:
        """Keep a result, and submit what follows its request."""
        self._results[index] = result
        if self._turns is None:
            return
        async with self._deadline.kept():
            canvas = await self._turns.follow(self.choices[index], self.requests[index], result)
        if canvas is not None:
            self._enqueue(self.choices[index], canvas)

    async def results(self) -> list[Result]:
        """Every choice's result, in their order. Whatever happens, nothing runs on afterwards."""
        try:
            async for _ in self.steps():
                pass
        finally:
            self.close()
        return [merged(self.answer(choice)) for choice in range(max(self.choices, default=-1) + 1)]

    def close(self) -> None:
        """Cancel the requests that still run; each row is free after at most one step."""
        for request_id in self._running:
            self._service.cancel(request_id)
        self._running.clear()

    async def _next(self) -> tuple[int, Step | EngineError]:
        async with self._deadline.kept():
            return await self._events.get()

    def _listener(self, index: int, record: OnStep) -> OnStep:
        def listen(event: Step | EngineError) -> None:  # on the engine's thread
            record(event)
            if self._every_step or isinstance(event, EngineError) or event.result is not None:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return listen


def nothing(request: Request) -> Step:
    """The only step of a request of no tokens."""
    given = len(request.prompt) + len(request.suffix)
    return Step(request.id, 0, (), (), 0, True, "", Result((), (), (), "", "length", given, 0, 0, 0.0, 0.0))
