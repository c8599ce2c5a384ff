"""The command `unmask check`: does a model work here? It loads it, has it answer one prompt twice, and prints what a
bug report needs."""

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isfinite

import torch

from unmask.asking import as_requests
from unmask.engine.engine import Engine
from unmask.engine.fit import Fit, fit_of_loaded
from unmask.engine.request import Request, Result
from unmask.evals.bench.memory import peak_bytes, reset_peak
from unmask.models.devices import available_bytes, choose_device
from unmask.models.loading import Model, load_configured
from unmask.models.memory import GIB
from unmask.settings import CheckSettings

PROMPT = "What is 17 times 3?"  # where the preset has none
SHOWN = 200  # characters of the answer


@dataclass(frozen=True)
class Run:
    """One answer, and the seconds of each pass."""

    result: Result
    passes: Sequence[float]

    @property
    def confidences(self) -> list[float]:
        return [reveal.probability for reveal in self.result.reveals]


def check(settings: CheckSettings) -> int:
    """Load, answer, compare and report. Returns the exit code: 1 if something is wrong, 0 if not."""
    for line in _machine(settings.device):
        print(line)
    free = available_bytes(device := choose_device(settings.device))
    reset_peak(device)
    began = time.perf_counter()
    # For two answers, compiling the kernels takes longer than they save.
    model = load_configured(settings.model_copy(update={"compile": bool(settings.compile)}))
    seconds = time.perf_counter() - began
    fit = fit_of_loaded(model, max_rows=1, memory_fraction=settings.memory_fraction)
    for line in _loading(model, fit, free, seconds, peak_bytes(device)):
        print(line)
    reset_peak(device)
    request = _request(model)
    engine = Engine(model, max_rows=1, memory_fraction=settings.memory_fraction)
    runs = [_run(engine, request) for _ in range(2)]
    for line in _answer(runs, request, peak_bytes(device)):
        print(line)
    wrong = list(faults(runs, expected(model)))
    for line in wrong:
        print(f"wrong       {line}")
    print("the model works here" if not wrong else "the model does not work here as it should")
    return int(bool(wrong))


def faults(runs: Sequence[Run], expected: str | None) -> Iterator[str]:
    """What is wrong with the answers, each in one sentence."""
    for run in runs:
        if odd := [c for c in run.confidences if not (isfinite(c) and 0 <= c <= 1)]:
            yield f"a confidence is {odd[0]}, which is no probability"
            break
    if len({run.result.token_ids for run in runs}) > 1:
        yield f"the same request has two answers, the second is {runs[1].result.text[:SHOWN]!r}"
    if expected is not None and runs[0].result.text != expected:
        yield f"the preset states another answer: {expected[:SHOWN]!r}"


def expected(model: Model) -> str | None:
    """The answer that the model's preset states; None if it states none, or there is no preset."""
    return None if model.preset is None or model.preset.check is None else model.preset.check.answer


def _request(model: Model) -> Request:
    """One prompt, with the defaults of the preset."""
    stated = None if model.preset is None else model.preset.check
    prompt = model.tokenizer.ask(PROMPT if stated is None else stated.prompt)
    return as_requests([tuple(prompt)], {"seed": 0}, model)[0]


def _run(engine: Engine, request: Request) -> Run:
    passes, began = list[float](), time.perf_counter()
    for step in engine.run([request]):
        now = time.perf_counter()
        passes.append(now - began)
        began = now
        if step.result is not None:
            return Run(step.result, passes)
    raise AssertionError("the engine ends every request with a result")


def _machine(device: str) -> Iterator[str]:
    on = choose_device(device)
    kinds = {"cuda": lambda: torch.cuda.get_device_name(on), "xpu": lambda: torch.xpu.get_device_name(on)}
    name = kinds[on.type]() if on.type in kinds else f"{platform.machine()}, {torch.get_num_threads()} threads"
    yield f"unmask      {version('unmask')}, Python {platform.python_version()}, torch {torch.__version__}"
    yield f"machine     {platform.system()} {platform.release()}, {os.cpu_count()} CPUs"
    yield f"device      {on}, {name}, {available_bytes(on) / GIB:.2f} GiB free"


def _loading(model: Model, fit: Fit, free: int, seconds: float, peak: int) -> Iterator[str]:
    preset = "no preset" if model.preset is None else f"preset {model.preset.name}"
    yield f"model       {model.name}, {preset}, in {model.precision}"
    yield f"loaded      in {seconds:.2f} s; weights {fit.weights / GIB:.2f} GiB, peak {peak / GIB:.2f} GiB"
    yield f"memory      needed {fit.needed / GIB:.2f} of {free / GIB:.2f} GiB; room for {fit.columns:,} cached tokens"


def _answer(runs: Sequence[Run], request: Request, peak: int) -> Iterator[str]:
    result, (first, *others) = runs[0].result, [seconds for run in runs for seconds in run.passes]
    median = statistics.median(others or [first])
    options = ":".join(f"{name}={value}" for name, value in request.scheduler.values.items())
    yield f"asked       with {request.scheduler.name}:{options}, cache {request.cache}"
    yield f"fed         {request.input_state} where masks are"
    yield f"length      {request.max_tokens} tokens at most, blocks of {request.block_length}"
    yield f"answer      {result.text[:SHOWN]!r}"
    yield f"tokens      {len(result.token_ids)} in {result.forward_passes} forward passes"
    yield f"time        {first:.4f} s for the first pass, {median:.4f} s for each of the others (median)"
    yield f"confidence  from {min(runs[0].confidences):.3f} to {max(runs[0].confidences):.3f}"
    yield f"peak        {peak / GIB:.2f} GiB while it answered"
