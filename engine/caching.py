"""Which keys and values a request keeps from earlier passes.

In a model that attends in both directions every key depends on every token, so kept ones grow stale as tokens are
revealed: `prefix` and `dual` are approximations (Fast-dLLM, Wu et al., arXiv 2505.22618, section 3.2). In a
block-causal model nothing depends on later blocks, so `block` is exact.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from unmask.engine.errors import RequestError
from unmask.models.architecture import Architecture
from unmask.schedulers import SchedulerSpec

CacheName = Literal["none", "prefix", "dual", "block"]
CACHES: tuple[CacheName, ...] = get_args(CacheName)


@dataclass(frozen=True)
class Cache:
    """What a request keeps.

    name     none: nothing. prefix: the columns before the current block. dual: those before and after it.
             block: the finished blocks of a block-causal model
    refresh  prefix and dual compute the whole canvas in the first pass over each block, and again every `refresh`
             passes; None: only in the first
    """

    name: CacheName = "none"
    refresh: int | None = None

    def __str__(self) -> str:
        return self.name if self.refresh is None else f"{self.name}:refresh={self.refresh}"


NO_CACHE = Cache()


def parse_cache(text: str) -> Cache:
    """A cache from one word: `none`, `prefix`, `dual`, `dual:refresh=8`, `block`. Raises RequestError."""
    name, colon, setting = text.partition(":")
    option, _, value = setting.partition("=")
    known = next((cache for cache in CACHES if cache == name), None)
    if known is None:
        raise RequestError(f"cache {text!r} is unknown; the caches are: {', '.join(CACHES)}", "cache")
    if not colon:
        return Cache(known)
    if known not in ("prefix", "dual") or option != "refresh" or not value.isdecimal() or int(value) < 1:
        raise RequestError(f"cache {text!r} cannot be read; write for example dual, or dual:refresh=8", "cache")
    return Cache(known, int(value))


AUTO = "auto"


def require_cache(text: str) -> None:
    """Raise RequestError unless the word names a cache; needs no model."""
    if text != AUTO:
        parse_cache(text)


def choose_cache(text: str, a: Architecture) -> Cache:
    """The cache for one word, `auto` included, and a model. Raises RequestError.

    auto is the exact cache of block-causal models. For models that attend in both directions it is none, which is
    exact too; docs/performance.md says what the others cost in accuracy and gain in speed.
    """
    if text == AUTO:
        return NO_CACHE if a.block_size is None else Cache("block")
    cache = parse_cache(text)
    check_cache(cache, a)
    return cache


def advice(cache: Cache, a: Architecture, device: str) -> str:
    """What the log of a server with this default cache says of it; empty where there is nothing to say.

    On an H200 eight rows of LLaDA-8B's shape took 6.2 times as long as one without a cache (docs/performance.md).
    """
    if cache != NO_CACHE or a.block_size is not None or device != "cuda":
        return ""
    return (
        "without a cache a pass computes every token of every request, so requests to a large model gain nothing from "
        "running side by side; --cache dual lets them share passes, approximately: see docs/performance.md"
    )


def check_cache(cache: Cache, a: Architecture) -> None:
    """Raise RequestError unless the cache suits the model."""
    fitting = ("none", "prefix", "dual") if a.block_size is None else ("none", "block")
    if cache.name not in fitting:
        kind = "attends in both directions" if a.block_size is None else "is block-causal"
        message = f"cache {str(cache)!r} is not for this model, which {kind}; use {' or '.join(fitting)}"
        raise RequestError(message, "cache")


def check_needs(scheduler: SchedulerSpec, cache: Cache, a: Architecture) -> None:
    """Raise RequestError unless passes with the cache compute what the scheduler needs."""
    needs = scheduler.needs()
    if needs.top_k > a.vocab_rows:
        message = f"wants to see the {needs.top_k} most probable tokens of {a.vocab_rows}; use another"
        raise RequestError(f"scheduler {scheduler.name!r} {message}", "scheduler")
    if needs.window != "generation":
        return
    if a.block_size is not None:
        message = "wants to see the whole generation region, and this model computes one block after another"
        raise RequestError(f"scheduler {scheduler.name!r} {message}; use one that sees the block", "scheduler")
    if cache.name != "none":
        message = f"wants to see the whole generation region, which passes with cache {str(cache)!r} do not compute"
        raise RequestError(f"scheduler {scheduler.name!r} {message}; use cache none", "cache")
