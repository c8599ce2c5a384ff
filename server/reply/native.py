"""How `POST /generate` answers: whole, or with an event per step."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from unmask.engine.request import Result, Reveal, Step
from unmask.engine.service import EngineError
from unmask.models.loading import Model
from unmask.server.errors import error_body
from unmask.server.generations import Generations
from unmask.server.parse.region import Region
from unmask.server.reply.common import diffusion, token_steps, usage
from unmask.server.reply.sse import event
from unmask.server.wire.generate import GenerateRequest

JSON = dict[str, Any]


@dataclass(frozen=True)
class NativeReply:
    """One HTTP request: what was asked, what runs for it, and the fields that its answer begins with."""

    body: GenerateRequest
    region: Region
    generations: Generations
    model: Model
    head: JSON

    async def whole(self) -> Response:
        """The whole answer."""
        (result,) = await self.generations.results()
        done = await asyncio.to_thread(self._done, result)
        return JSONResponse(self.head | {"usage": usage([result]).model_dump(exclude_none=True)} | done)

    async def events(self) -> AsyncIterator[str]:
        """The stream: `start`, a `step` per forward pass, a `block` when one is finished, `done` or `error`."""
        yield event(self.head | self._start(), "start")
        sent = 0  # characters of settled text
        try:
            async for _, step in self.generations.steps():
                yield event(step_data(step, self.model), "step")
                if step.ended or step.result is not None:
                    yield event({"index": step.block, "text": step.text[sent:]}, "block")
                    sent = len(step.text)
                if step.result is not None:
                    yield event(await asyncio.to_thread(self._done, step.result), "done")
        except EngineError as error:
            yield event(error_body(error), "error")

    def _start(self) -> JSON:
        (request,) = self.generations.requests
        text = self.model.tokenizer.token_text
        pinned = [(i, token, text(token)) for i, token in enumerate(request.template) if token is not None]
        start = {
            "prompt_tokens": len(request.prompt) + len(request.suffix) + len(pinned),
            "length": request.max_tokens,
            "block_length": request.block_length,
            "scheduler": request.scheduler.as_json(),
        }
        return start if self.body.canvas is None else start | {"pinned": pinned}

    def _done(self, result: Result) -> JSON:
        with_steps = bool(self.body.return_steps)
        done = {
            "text": result.text,
            "token_ids": result.token_ids,
            "finish_reason": result.finish_reason,
            "diffusion": diffusion(self.generations, [result], with_steps),
        }
        if self.body.canvas is not None:
            done["canvas"] = self.model.tokenizer.decode(self.region.filled(result.token_ids))
        return done | (token_steps(result) if with_steps else {})


def step_data(step: Step, model: Model) -> JSON:
    """The data of the event `step`."""
    seen = {"step": step.index, "revealed": _tokens(step.revealed, model), "remasked": step.remasked}
    return seen | ({"written": _tokens(step.written, model)} if step.written else {})


def _tokens(reveals: Sequence[Reveal], model: Model) -> list[tuple[int, int, str, float]]:
    text = model.tokenizer.token_text
    return [(one.position, one.token_id, text(one.token_id), round(one.probability, 6)) for one in reveals]
