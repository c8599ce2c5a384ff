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
