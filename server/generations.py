"""From the engine's thread to the event loop, and back when the client has left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from unmask.engine.canvas import Canvas
from unmask.engine.request import Request, Result, Step
from unmask.engine.service import GOING_DOWN, EngineError, EngineService, EngineStoppedError, OnStep
from unmask.server.caller import Deadline


class Generations:
    """Requests in the engine, and their steps. It must be closed in the end."""

    def __init__(
        self,
        service: EngineService,
        follow: Callable[[Request], OnStep],
        canvases: Sequence[Canvas],
        every_step: bool,
        deadline: Deadline,
    ):
        """Submit all canvases, or none; without `every_step` only their last steps arrive.

        A request of no tokens ends at once: the engine does not see it, and it is not followed.

        follow  makes a listener for all events of a request; it is called on the engine's thread

        Raises QueueFullError or EngineStoppedError.
        """
        self.requests = [canvas.request for canvas in canvases]
        self._service = service
        self._every_step = every_step
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._events: asyncio.Queue[tuple[int, Step | EngineError]] = asyncio.Queue()
        self._running: set[str] = set()
        try:
            for index, canvas in enumerate(canvases):
                request = canvas.request
                if request.max_tokens:
                    service.enqueue(canvas, self._listener(index, follow(request)))
                else:
                    self._events.put_nowait((index, nothing(request)))
                self._running.add(request.id)
        except EngineError:
            self.close()
            raise

    async def steps(self) -> AsyncIterator[tuple[int, Step]]:
        """(index of the request, step) until all have ended. Raises EngineError if one could not."""
        while self._running:
            index, event = await self._next()
            if isinstance(event, EngineError):
                raise event
            if event.result is not None:
                self._running.discard(event.request_id)
                if event.result.finish_reason == "cancelled":  # by the engine: after `close` nobody reads this
                    raise EngineStoppedError(GOING_DOWN)
            yield index, event

    async def results(self) -> list[Result]:
        """Every request's result, in their order."""
        results = {index: step.result async for index, step in self.steps() if step.result is not None}
        return [results[index] for index in range(len(self.requests))]

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
