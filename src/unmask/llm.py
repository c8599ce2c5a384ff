"""The Python API: `from unmask import LLM`."""

import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Unpack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unmask import defaults
from unmask.asking import Conversation, Fields, Prompt, as_requests, check_number, check_scored, is_one, token_ids
from unmask.engine.canvas import Canvas
from unmask.engine.engine import Engine
from unmask.engine.errors import RequestError
from unmask.engine.figures import Figures, figures
from unmask.engine.ranks.start import follow_torchrun, follows, loading, start_ranks
from unmask.engine.request import FinishReason, Request, Result, Reveal, Step
from unmask.engine.score import Masks, Score, check_patterns, draw_masks
from unmask.engine.scoring import Question, passes
from unmask.models.loading import load_model
from unmask.settings import DEFAULT_MODEL

log = logging.getLogger(__name__)

Prompts = Prompt | Conversation | Sequence[Prompt] | Sequence[Conversation]


@dataclass(frozen=True)
class Output:
    """One answer.

    text           what was generated
    token_ids      its tokens, before any end of text
    finish_reason  "stop": an end of text or a stop text; "length": the generation region is full
    prompt_tokens  tokens that were given, the suffix included
    diffusion      how it came about: passes, tokens per step, seconds
    reveals        each token of the generation region in the order in which it was revealed: position, token id,
                   probability, step
    cached_tokens  of block-causal models with cache "block": how many of the first prompt_tokens needed no pass, as
                   their blocks had been computed; otherwise None
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    diffusion: Figures
    reveals: tuple[Reveal, ...] = field(repr=False)
    cached_tokens: int | None = None


class LLM:
    """A masked diffusion language model in this process.

    model            a preset such as "llada-8b", which sets the defaults of fields, too, a Hub id, a folder, or
                     "llada-nano", which comes with the package
    revision         branch, tag or commit of a Hub id
    device           "auto", "cpu", "cuda", "cuda:1", "mps", "xpu"; auto takes CUDA if present
    dtype            "auto", "float32", "bfloat16" or "float16"; auto is bfloat16 on CUDA and on CPUs made for it, else
                     float32
    quantization     "int8" or "int4" keeps the matrices of the network's blocks so; needs the extra unmask[quant]
    lora             adapters in PEFT's layout, each a folder or a Hub id, and perhaps =name: one is merged into the
                     weights, of several the field `adapter` chooses one by its name
    verify           check the bytes of weights from the Hub by the hashes that it states
    compile          make kernels with torch.compile; by default on CUDA only
    memory_fraction  share of the memory left beside the weights that keys and values may take
    max_rows         requests that run side by side in one batch
    batch_invariant  compute each row by itself, so that an answer depends on its own request alone, bit for bit
    prefix_reuse     of block-causal models: keep the keys and values of finished blocks when an answer ends, and take
                     them where another prompt begins with the same tokens
    tensor_parallel  processes that the model is split over, see docs/deploy.md: this one and others, which it starts.
                     Under torchrun the other ranks end here when rank 0 does

    Raises CheckpointError if the model cannot be loaded, RequestError for a number that is out of range.

    Every method of generation takes the same fields, see `unmask.asking.Fields`. It raises RequestError for a field
    that does not fit, UnknownSchedulerError or OptionError for the scheduler, ChatTemplateError for messages,
    SchedulerError if a scheduler fails, NotFiniteError if the model computes NaN, NoMemoryError if the device has too
    little memory; the LLM can be used again after each. One call runs at a time; a server answers many clients at once.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        quantization: Literal["int8", "int4"] | None = None,
        lora: Sequence[str] = (),
        verify: bool = False,
        compile: bool | None = None,
        memory_fraction: float = defaults.MEMORY_FRACTION,
        max_rows: int = defaults.MAX_ROWS,
        batch_invariant: bool = False,
        prefix_reuse: bool = True,
        tensor_parallel: int = defaults.TENSOR_PARALLEL,
    ):
        check_number("max_rows", max_rows)
        check_number("memory_fraction", memory_fraction)
        check_number("tensor_parallel", tensor_parallel)
        if tensor_parallel > 1 and follows():
            follow_torchrun(tensor_parallel, device)
            raise SystemExit(0)
        ranks = start_ranks(tensor_parallel, device, quantization, compile, bool(lora))
        if ranks is not None:
            weakref.finalize(self, ranks.close)
        with loading(ranks, model, revision, dtype) as split:
            how = device, dtype, compile, quantization
            self.model = load_model(model, revision, *how, verify=verify, lora=lora, split=split)
        if self.model.preset is not None and self.model.preset.defaults:
            log.info(self.model.preset.described())
        self._engine = Engine(
            self.model,
            max_rows,
            memory_fraction,
            batch_invariant=batch_invariant,
            prefix_reuse=prefix_reuse,
            ranks=ranks,
        )
        self._at_work = threading.Lock()

    def generate(
        self, prompts: Prompt | Sequence[Prompt], *, progress: bool = True, **fields: Unpack[Fields]
    ) -> list[Output]:
        """Answer raw prompts, each a text or token ids. One prompt may stand without a list.

        progress  show a bar that counts answers, on a terminal

        Returns the outputs in the order of the prompts: the n of the first, then the n of the next. To a raw text
        nothing is added; use `chat` for a model that follows instructions.
        """
        return self._outputs(self._prepared(prompts, "prompts", fields), progress)

    def chat(
        self, messages: Conversation | Sequence[Conversation], *, progress: bool = True, **fields: Unpack[Fields]
    ) -> list[Output]:
        """Answer conversations through the model's chat template: a list of messages, or several such lists.

        A message is a mapping with the texts `role` (system, user or assistant) and `content`. The rest is as in
        `generate`.
        """
        return self._outputs(self._prepared(messages, "messages", fields), progress)

    def stream(self, prompts: Prompts, **fields: Unpack[Fields]) -> Generator[Step, None, None]:
        """Yield every step of every answer, as its forward pass ends. Takes raw prompts or conversations.

        `step.request_id` is the place of the answer among the outputs of `generate`, as a text: "0" for the first. The
        last step of an answer has a `result`. To close the iterator, or drop it, ends what still runs.
        """
        return self._steps(self._prepared(prompts, "prompts", fields))

    def score(
        self,
        prompts: Prompts,
        completions: Prompt | Sequence[Prompt],
        *,
        patterns: Sequence[Sequence[int]] | None = None,
        coupled_pairs: int = 0,
        likelihood_samples: int = 0,
        seed: int = 0,
    ) -> list[Score]:
        """How probable given completions are after their prompts, under masks, in plain passes.

        prompts             raw prompts or conversations, as many as completions; a prompt may be empty
        completions         texts or token ids
        patterns            which positions of a completion to mask, from 0, one list per pass; if nothing else is asked
                            for, one with every position
        coupled_pairs       pairs of complementary masks for coupled-GRPO's estimate for each token
        likelihood_samples  masks for the Monte-Carlo estimate of a lower bound of log p(completion | prompt)
        seed                of the masks that are drawn

        Log-probabilities are those of the softmax of the raw logits in float32, in nats. Raises RequestError.
        """
        check_number("coupled_pairs", coupled_pairs)
        check_number("likelihood_samples", likelihood_samples)
        check_number("seed", seed)
        before, after = self._ids(prompts, "prompts"), self._ids(completions, "completions")
        if len(before) != len(after):
            raise RequestError(
                f"there are {len(before)} prompts and {len(after)} completions; give as many of each", "completions"
            )
        drawn, questions = list[Masks](), list[list[Question]]()
        for i, (prompt, completion) in enumerate(zip(before, after, strict=True)):
            check_scored(prompt, completion, i, self.model)
            check_patterns(patterns or (), len(completion))
            drawn.append(draw_masks(len(completion), patterns, coupled_pairs, likelihood_samples, seed))
            questions.append(drawn[-1].questions(prompt, completion, self.model.mask_id))
        with self._alone():
            lots = passes([question for asked in questions for question in asked])
            scored = iter([one for lot in lots for one in self._engine.score(lot)])
        return [
            masks.score(completion, [next(scored) for _ in asked])
            for masks, completion, asked in zip(drawn, after, questions, strict=True)
        ]

    def _prepared(self, prompts: Prompts, field: str, fields: Fields) -> list[Canvas]:
        """The canvases for prompts of at least one token, which the engine has checked."""
        ids = self._ids(prompts, field)
        if () in ids:
            raise RequestError(f"{field}[{ids.index(())}] holds no tokens; give at least one", field)
        return [self._engine.prepare(request) for request in as_requests(ids, fields, self.model)]

    def _ids(self, prompts: Prompts, field: str) -> list[tuple[int, ...]]:
        """The token ids of one prompt, or of each of several."""
        several: Any = [prompts] if is_one(prompts) else prompts
        return [token_ids(prompt, f"{field}[{i}]", self.model) for i, prompt in enumerate(several)]

    def _outputs(self, canvases: Sequence[Canvas], progress: bool) -> list[Output]:
        results: dict[str, Result] = {}
        with closing(self._steps(canvases)) as steps, _bar(len(canvases), progress) as answered:
            for step in steps:
                if step.result is not None:
                    results[step.request_id] = step.result
                    answered()
        return [_output(canvas.request, results[canvas.request.id]) for canvas in canvases]

    def _steps(self, canvases: Sequence[Canvas]) -> Generator[Step, None, None]:
        with self._alone():
            for canvas in canvases:
                self._engine.enqueue(canvas)
            yield from self._engine.steps()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the engine for one call, and free it of what is left if that does not end in order."""
        if not self._at_work.acquire(blocking=False):
            raise RuntimeError("another call of this LLM is under way; read its stream to the end, or close() it")
        try:
            yield
        except BaseException:
            self._engine.reset()
            raise
        finally:
            self._at_work.release()


def _output(request: Request, result: Result) -> Output:
    return Output(
        result.text,
        result.token_ids,
        result.finish_reason,
        result.prompt_tokens,
        figures([request], [result]),
        result.reveals,
        result.cached_tokens,
    )


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, and what to call when an answer has ended."""
    console = Console(stderr=True)
    columns = TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        bar = progress.add_task("answers", total=total)
        yield lambda: progress.advance(bar)
