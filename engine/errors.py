"""What a request can get wrong that only its model tells."""


class RequestError(ValueError):
    """A field of a request does not fit the model or the machine. The message names field, value and remedy."""

    def __init__(self, message: str, param: str):
        super().__init__(message)
        self.param = param
