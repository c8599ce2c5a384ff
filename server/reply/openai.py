"""What `/v1/completions` and `/v1/chat/completions` have in common: OpenAI's way to answer, whole or as a stream.

A stream carries only text that can no longer change: it grows with the settled prefix, so short blocks make it flow
and one block over the whole length makes it come late and in bursts. With `diffusing`, it carries snapshots instead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from unmask.engine.request import Result
from unmask.engine.service import EngineError
from unmask.models.tokenizer import Tokenizer
from unmask.server.errors import error_body
from unmask.server.generations import Generations
from unmask.server.reply.common import diffusion, token_steps, usage
from unmask.server.reply.deltas import NO_ECHO, Delta, Echo, pieces, snapshots, whole
from unmask.server.reply.sse import event, to_json
from unmask.server.wire.openai import OpenAIFields
from unmask.server.wire.responses import Usage

END_OF_STREAM = "data: [DONE]\n\n"

JSON = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How one endpoint writes its answers.

    prefix    of ids
    object    what a whole answer calls itself, and `chunk` a piece of one
    choice    the fields of a whole choice, and `delta` those of a piece of one
    opening   those of what a stream begins each choice with, if it does
    logprobs  of a piece's tokens
    """

    prefix: str
    object: str
    chunk: str
    choice: Callable[[Delta], JSON]
    delta: Callable[[Delta], JSON]
    logprobs: Callable[[Delta, Tokenizer], JSON]
    opening: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class OpenAIReply:
    """One request of a client's: what was asked, what runs for it, and how it is answered.

    echoes  of the prompts, one a choice, or none
    """

    body: OpenAIFields
    generations: Generations
    tokenizer: Tokenizer
    head: JSON
    shape: Shape
    echoes: Sequence[Echo]

    async def whole(self) -> Response:
        try:
            results = await self.generations.results()
        finally:
            self.generations.close()
        return Response(await asyncio.to_thread(self._written, results), media_type="application/json")

    def _written(self, results: Sequence[Result]) -> bytes:
        """The whole answer in JSON, a choice at a time: writing JSON holds Python's lock."""
        parts = (whole(i, result, self._echo(i)) for i, result in enumerate(results))
        choices = ",".join(to_json(self._choice(piece, self.shape.choice(piece))) for piece in parts)
        head, summary = to_json(self.head | self._prompt_ids()), to_json(self._summary(results))
        return f'{head[:-1]},"choices":[{choices}],{summary[1:]}'.encode()

    async def chunks(self) -> AsyncIterator[str]:
        """The stream: pieces of each choice; the last chunk holds `diffusion`, and `usage` if asked for."""
        results: dict[int, Result] = {}
        try:
            async for chunk, piece in self._told():
                if piece is not None and piece.result is not None:
                    results[piece.choice] = piece.result
                if len(results) < len(self.generations.requests):
                    yield event(chunk)
                    continue
                summary = self._summary([results[i] for i in sorted(results)])
                if self.body.wants_usage:
                    yield event(chunk)
                    yield event(self.head | {"choices": []} | summary)
                else:
                    yield event(chunk | {"diffusion": summary["diffusion"]})
        except EngineError as error:
            yield event({"error": error_body(error)})
        yield END_OF_STREAM

    async def _told(self) -> AsyncIterator[tuple[JSON, Delta | None]]:
        """The chunks, with the pieces that they tell: none in those that open a choice."""
        head, sent = self.head | self._prompt_ids(), 0
        if opening := self.shape.opening:
            for i in range(len(self.generations.requests)):
                choice = {"index": i, **opening, "logprobs": None, "finish_reason": None}
                yield head | self._usage_so_far(0) | {"choices": [choice]}, None
                head = self.head
        async for piece in self._pieces():
            sent += len(piece.tokens)
            choice = self._choice(piece, self.shape.delta(piece))
            yield head | self._usage_so_far(sent) | {"choices": [choice]}, piece
            head = self.head

    def _pieces(self) -> AsyncIterator[Delta]:
        if self.body.diffusing:
            return snapshots(self.generations, self.tokenizer)
        echoes = [self._echo(i) for i in range(len(self.generations.requests))]
        return pieces(self.generations, self.body.wants_tokens, echoes)

    def _choice(self, piece: Delta, fields: JSON) -> JSON:
        body, result = self.body, piece.result
        wanted = body.alternatives is not None
        choice = {"index": piece.choice, **fields}
        choice["logprobs"] = self.shape.logprobs(piece, self.tokenizer) if wanted else None
        choice["finish_reason"] = result.finish_reason if result else None
        if body.return_token_ids:
            choice["token_ids"] = [token.id for token in piece.tokens]
            if piece.first and not self.shape.opening:
                choice["prompt_token_ids"] = self.generations.requests[piece.choice].prompt
        return choice | (token_steps(result) if result and body.return_steps else {})

    def _prompt_ids(self) -> JSON:
        """Of a chat, which has one prompt for all choices, beside them; a completion's stand in each choice."""
        if not (self.body.return_token_ids and self.shape.opening):
            return {}
        return {"prompt_token_ids": self.generations.requests[0].prompt}

    def _echo(self, choice: int) -> Echo:
        return self.echoes[choice // (self.body.n or 1)] if self.echoes else NO_ECHO

    def _usage_so_far(self, sent: int) -> JSON:
        """Null where usage comes at the end, a count where it was asked for all along."""
        if not self.body.wants_usage:
            return {}
        if not self.body.wants_usage_all_along:
            return {"usage": None}
        requests = self.generations.requests[:: self.body.n or 1]
        prompt = sum(len(request.prompt) + len(request.suffix) for request in requests)
        return {"usage": Usage(prompt_tokens=prompt, completion_tokens=sent, total_tokens=prompt + sent).model_dump()}

    def _summary(self, results: Sequence[Result]) -> JSON:
        return {
            "usage": usage(results, self.body.n or 1).model_dump(),
            "diffusion": diffusion(self.generations.requests, results, bool(self.body.return_steps)),
        }
