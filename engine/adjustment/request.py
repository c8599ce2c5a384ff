"""The fields of a request that change logits, checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from unmask.engine.errors import RequestError


@dataclass(frozen=True)
class Adjustment:
    """How the logits of a request change, at each step anew, before a token is proposed.

    bias        (token id, what is added to its logit)
    presence    what is subtracted for each token that stands on the canvas, in the generation region
    frequency   what is subtracted as often as the token stands there
    repetition  what the logit of each token there and in the prompt is divided by; multiplied, if it is negative
    min_p       tokens less probable than this share of the most probable one are not drawn
    """

    bias: tuple[tuple[int, float], ...] = ()
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    min_p: float = 0.0


NOTHING = Adjustment()


def adjustment_of(
    bias: Mapping[int, float] | None,
    presence: float | None,
    frequency: float | None,
    repetition: float | None,
    min_p: float | None,
    vocabulary: int,
) -> Adjustment | None:
    """That of some fields, of which any may be left out; None if they change nothing.

    vocabulary  of the model, in tokens

    Raises RequestError about `logit_bias` for a token that the model does not have.
    """
    for token in bias or {}:
        if not 0 <= token < vocabulary:
            raise RequestError(
                f"logit_bias names the token {token}; the model's tokens are 0 to {vocabulary - 1}", "logit_bias"
            )
    found = Adjustment(
        bias=tuple((token, value) for token, value in (bias or {}).items() if value),
        presence=presence or 0.0,
        frequency=frequency or 0.0,
        repetition=1.0 if repetition is None else repetition,
        min_p=min_p or 0.0,
    )
    return None if found == NOTHING else found
