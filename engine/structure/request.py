"""What a request asks of the form of its answer."""

from dataclasses import dataclass

from unmask.engine.errors import RequestError


class StructureError(ValueError):
    """A structure that cannot be kept; the message says why, and the remedy."""


@dataclass(frozen=True)
class Structure:
    """The form of an answer: it matches a regular expression, from its first byte to its last.

    regex  in the syntax of Rust's `regex`, which is Python's for what is common
    param  the field that asks for it, for errors
    """

    regex: str
    param: str = "structured_outputs"

    def refused(self, why: str) -> RequestError:
        """The error that names the field."""
        return RequestError(f"field {self.param!r} cannot be kept: {why}", self.param)
