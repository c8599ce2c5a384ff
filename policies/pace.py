"""What a speed means."""

from torch import Tensor


def wanted_passes(length: Tensor, speed: Tensor) -> Tensor:
    """The forward passes that a speed from 0 to 1 asks for: L ** (1 - speed), so one at 1 and one a token at 0."""
    return length.float() ** (1 - speed)
