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

    def no_room(self, what: str, needed: int, length: int, most: int) -> RequestError:
        """The error for an answer of `needed` tokens and a region of `length`, which may have at most `most`."""
        remedy = f"raise max_tokens to at least {needed}"
        if needed > most:
            remedy = f"shorten the prompt, beside which at most {most} fit"
        return self.refused(f"its shortest {what} has {needed} tokens, and there is room for {length}; {remedy}")
