"""Errors that concern some requests and not the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unmask.errors import UserError

if TYPE_CHECKING:
    from unmask.engine.request import Step


class RequestError(UserError, ValueError):
    """A field of a request does not fit the model or the machine. The message names field, value and remedy."""

    def __init__(self, message: str, param: str):
        super().__init__(message)
        self.param = param


class SchedulerError(UserError, RuntimeError):
    """A scheduler failed to decide; the requests that use it cannot go on. The step has changed nothing."""

    def __init__(self, name: str, request_ids: tuple[str, ...], error: BaseException):
        super().__init__(f"scheduler {name!r} failed: {type(error).__name__}: {error}")
        self.request_ids = request_ids


class NotFiniteError(UserError, RuntimeError):
    """The model computed NaN or infinity where a probability belongs; the requests that met it have ended.

    precision    what the model computes in
    request_ids  of those requests; empty when scoring
    steps        of the other requests in the same pass; they go on
    """

    def __init__(self, precision: str, request_ids: tuple[str, ...] = (), steps: "Sequence[Step]" = ()):
        too_small = precision.startswith("float16")
        remedy = (
            "use bfloat16 or float32" if too_small else "its weights are damaged or another network's; copy them anew"
        )
        super().__init__(f"the model computes NaN in {precision}; {remedy}")
        self.request_ids = request_ids
        self.steps = steps


class NoMemoryError(UserError, RuntimeError):
    """The device ran out of memory; without the request that it names, the longest, the others may go on. The step has
    changed nothing."""

    def __init__(self, request_id: str, length: int):
        super().__init__(
            f"the device ran out of memory, and of the requests in the batch this one of {length} tokens is the "
            "longest; send it again later, shorten it, or serve with fewer --max-rows or a smaller --memory-fraction"
        )
        self.request_ids = (request_id,)


class RankLostError(UserError, RuntimeError):
    """A rank of a model that is split over several is lost; nothing can be computed any more."""

    def __init__(self, why: str):
        super().__init__(f"{why}; start again")
