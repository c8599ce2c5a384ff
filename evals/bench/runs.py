"""One run of one contestant, and statistics over several runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Name = TypeVar("Name")


@dataclass(frozen=True)
class BenchAnswer:
    """One request as its client saw it.

    token_ids       what was generated before the first end of text
    forward_passes  that the request took part in
    seconds         from when it was sent, or in an open loop was due, to the last token
    first_seconds   the same to the first settled token; None if nothing is shown before the end
    """

    token_ids: tuple[int, ...]
    forward_passes: int
    seconds: float
    first_seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """Every request of a workload answered once: wall-clock seconds, answers in the order of the requests, memory, and
    the share of answers that solve their problems."""

    seconds: float
    answers: tuple[BenchAnswer, ...]
    peak_bytes: int | None = None
    solved: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens before the end of text, all requests together, by wall-clock time."""
        return sum(len(answer.token_ids) for answer in self.answers) / self.seconds

    def figures(self) -> dict[str, float | None]:
        """The numbers of a report, by name. Passes count once for each request that took part in them."""
        passes = sum(answer.forward_passes for answer in self.answers)
        seconds = [answer.seconds for answer in self.answers]
        first = [answer.first_seconds for answer in self.answers if answer.first_seconds is not None]
        return {
            "tokens_per_second": self.tokens_per_second,
            "passes_per_second": passes / self.seconds,
            "tokens_per_pass": sum(len(answer.token_ids) for answer in self.answers) / passes,
            "first_p50": percentile(first, 0.5),
            "first_p95": percentile(first, 0.95),
            "latency_p50": percentile(seconds, 0.5),
            "latency_p95": percentile(seconds, 0.95),
            "latency_p99": percentile(seconds, 0.99),
            "peak_bytes": self.peak_bytes,
            "solved": self.solved,
        }


@dataclass(frozen=True)
class Spread:
    """A number over the rounds."""

    median: float
    least: float
    most: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Comparison:
    """One contestant beside another.

    ratio      of tokens per second, taken round by round
    identical  how many of the `compared` requests, the first ones of both, got the same tokens, in the worst round
    """

    ratio: Spread
    identical: int
    compared: int

    @staticmethod
    def of(runs: Sequence[Run], base: Sequence[Run]) -> "Comparison":
        pairs = list(zip(runs, base, strict=True))
        ratio = Spread.of([run.tokens_per_second / other.tokens_per_second for run, other in pairs])
        compared = min(len(runs[0].answers), len(base[0].answers))
        return Comparison(ratio, min(_identical(*pair) for pair in pairs), compared)


def alternate(
    contestants: Mapping[Name, Callable[[], Run]], rounds: int, on_run: Callable[[], None] = lambda: None
) -> dict[Name, list[Run]]:
    """Run every contestant once a round, and call `on_run` after each.

    Every other round goes backwards, so that a drift of the machine cancels.
    """
    runs: dict[Name, list[Run]] = {name: [] for name in contestants}
    for index in range(rounds):
        for name in list(contestants)[:: -1 if index % 2 else 1]:
            runs[name].append(contestants[name]())
            on_run()
    return runs


def spreads(runs: Sequence[Run]) -> dict[str, Spread | None]:
    """Each figure over the rounds; None where a run does not have it."""
    rounds = [run.figures() for run in runs]
    found = {name: [figures[name] for figures in rounds] for name in rounds[0]}
    return {
        name: None if None in values else Spread.of([value for value in values if value is not None])
        for name, values in found.items()
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The least value that `share` of them do not exceed (nearest rank); None if there are none."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1] if values else None


def _identical(run: Run, other: Run) -> int:
    pairs = zip(run.answers, other.answers, strict=False)  # the reference answers only the first requests
    return sum(mine.token_ids == theirs.token_ids for mine, theirs in pairs)
