"""What OpenAI's endpoints have in common: how they answer, whole or as a stream.

A stream holds only text that can no longer change. It grows with the settled prefix: with short blocks the text flows,
and with one block over the whole length it arrives late and in bursts. With `diffusing`, it holds snapshots instead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response

from unmask.engine.request import Result
from unmask.engine.service import EngineError
from unmask.models.tokenizer import Tokenizer
from unmask.server.errors import error_body
from unmask.server.generations import Generations
from unmask.server.reply.common import diffusion, token_steps, usage
from unmask.server.reply.deltas import NO_ECHO, Delta, Echo, deltas, snapshots, whole
from unmask.server.reply.sse import event, to_json
from unmask.server.tools.parts import calls_of
from unmask.server.wire.openai import OpenAIFields
from unmask.server.wire.responses import Usage

END_OF_STREAM = "data: [DONE]\n\n"

JSON = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How one endpoint writes its responses.

    prefix      of ids
    object      the `object` of a whole response
    chunk       the `object` of a chunk
    choice      the fields of a whole choice
    delta       the fields of a choice in a chunk
    logprobs    of a delta's tokens
    prompt_ids  where the token ids of a prompt stand: once in the response, or in each choice
    opening     the fields of the chunk that opens each choice of a stream; none if nothing does
    """

    prefix: str
    object: str
    chunk: str
    choice: Callable[[Delta], JSON]
    delta: Callable[[Delta], JSON]
    logprobs: Callable[[Delta, Tokenizer], JSON]
    prompt_ids: Literal["response", "choice"] = "choice"
    opening: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class OpenAIReply:
    """One HTTP request: what was asked, what runs for it, and how it is answered.

    echoes  the prompts, one per n choices, where answers begin with them
    """

    body: OpenAIFields
    generations: Generations
    tokenizer: Tokenizer
    head: JSON
    shape: Shape
    echoes: Sequence[Echo]

    async def whole(self) -> Response:
        """The whole response."""
        results = await self.generations.results()
        return Response(await asyncio.to_thread(self._written, results), media_type="application/json")

    def _written(self, results: Sequence[Result]) -> bytes:
        """The whole response in JSON, written choice by choice: writing JSON holds Python's lock."""
        calls = [calls_of(self.generations.answer(i)) for i in range(len(results))]
        answers = (whole(i, result, self._echo(i), calls[i]) for i, result in enumerate(results))
        choices = ",".join(to_json(self._choice(answer, self.shape.choice(answer))) for answer in answers)
        head, summary = to_json(self.head | self._prompt_ids()), to_json(self._summary(results))
        return f'{head[:-1]},"choices":[{choices}],{summary[1:]}'.encode()

    async def chunks(self) -> AsyncIterator[str]:
        """The stream as server-sent events."""
        try:
            async for chunk in self._delta_chunks():
                yield event(chunk)
        except EngineError as error:
            yield event({"error": error_body(error)})
        yield END_OF_STREAM

    def _opening(self, choice: int, first: bool, sent: int) -> JSON:
        """The chunk that opens a choice, before any text. The first one of all holds the prompt's ids."""
        opened = {"index": choice, **self.shape.opening, "logprobs": None, "finish_reason": None}
        return self.head | (self._prompt_ids() if first else {}) | self._usage_so_far(sent) | {"choices": [opened]}

    async def _delta_chunks(self) -> AsyncIterator[JSON]:
        """A chunk per delta; the last chunk holds `diffusion`, and `usage` if asked for.

        A choice opens with its first step, not before: clients that measure take its first chunk for the first token.
        """
        sent, opened, results = 0, 0, dict[int, Result]()
        async for delta in self._deltas():
            if delta.opens:
                if self.shape.opening:
                    yield self._opening(delta.choice, not opened, sent)
                opened += 1
                continue
            sent += len(delta.tokens)
            chunk = self.head | self._usage_so_far(sent) | {"choices": [self._choice(delta, self.shape.delta(delta))]}
            if delta.result is not None:
                results[delta.choice] = delta.result
            if len(results) < self._choices:
                yield chunk
                continue
            summary = self._summary([results[i] for i in sorted(results)])
            if self.body.wants_usage:
                yield chunk
                yield self.head | {"choices": []} | summary
            else:
                yield chunk | {"diffusion": summary["diffusion"]}

    def _deltas(self) -> AsyncIterator[Delta]:
        if self.body.diffusing:
            return snapshots(self.generations, self.tokenizer)
        echoes = [self._echo(i) for i in range(self._choices)]
        return deltas(self.generations, self.body.wants_tokens, echoes)

    def _choice(self, delta: Delta, fields: JSON) -> JSON:
        body, result = self.body, delta.result
        wanted = body.alternatives is not None
        choice = {"index": delta.choice, **fields}
        choice["logprobs"] = self.shape.logprobs(delta, self.tokenizer) if wanted else None
        choice["finish_reason"] = delta.finish_reason
        if body.return_token_ids:
            choice["token_ids"] = [token.id for token in delta.tokens]
            if delta.first and self.shape.prompt_ids == "choice":
                choice["prompt_token_ids"] = self.generations.requests[delta.choice].prompt
        return choice | (token_steps(result) if result and body.return_steps else {})

    def _prompt_ids(self) -> JSON:
        """The ids of the one prompt, if they stand in the response."""
        if not self.body.return_token_ids or self.shape.prompt_ids == "choice":
            return {}
        return {"prompt_token_ids": self.generations.requests[0].prompt}

    def _echo(self, choice: int) -> Echo:
        return self.echoes[choice // (self.body.n or 1)] if self.echoes else NO_ECHO

    def _usage_so_far(self, sent: int) -> JSON:
        """Null where usage comes at the end, a count where every chunk holds one."""
        if not self.body.wants_usage:
            return {}
        if not self.body.wants_usage_all_along:
            return {"usage": None}
        requests = self.generations.requests[: self._choices : self.body.n or 1]
        prompt = sum(len(request.prompt) + len(request.suffix) for request in requests)
        usage_so_far = Usage(prompt_tokens=prompt, completion_tokens=sent, total_tokens=prompt + sent)
        return {"usage": usage_so_far.model_dump(exclude_none=True)}

    @property
    def _choices(self) -> int:
        return max(self.generations.choices, default=-1) + 1

    def _summary(self, results: Sequence[Result]) -> JSON:
        return {
            "usage": usage(results, self.body.n or 1).model_dump(exclude_none=True),
            "diffusion": diffusion(self.generations, results, bool(self.body.return_steps)),
        }
