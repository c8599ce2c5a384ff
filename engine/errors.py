"""What can go wrong with some requests and not with the others."""


class RequestError(ValueError):
    """A field of a request does not fit the model or the machine. The message names field, value and remedy."""

    def __init__(self, message: str, param: str):
        super().__init__(message)
        self.param = param


class SchedulerError(RuntimeError):
    """A scheduler failed to decide; the requests that use it cannot go on. The step has changed nothing."""

    def __init__(self, name: str, request_ids: tuple[str, ...], error: Exception):
        super().__init__(f"scheduler {name!r} failed: {type(error).__name__}: {error}")
        self.request_ids = request_ids


class NoMemoryError(RuntimeError):
    """The device ran out of memory; without the request that it names, the longest, the others may go on. The step has
    changed nothing."""

    def __init__(self, request_id: str, length: int):
        super().__init__(
            f"the device ran out of memory, and of the requests in the batch this one of {length} tokens is the "
            "longest; send it again later, shorten it, or serve with fewer --max-rows or a smaller --memory-fraction"
        )
        self.request_ids = (request_id,)
