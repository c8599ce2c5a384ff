"""Speed, an input of policies that are trained for all speeds: the fewest possible passes divided by the actual ones.

At speed 1 a policy reveals everything at once; at 0.5 it takes about twice as many passes, on average over the tasks
and block lengths of its training. A speed shifts all logits by the same amount, so a higher speed can only reveal more.
Which shift gives which speed is measured.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unmask.policies.network import SPEED_KNOTS

SHIFTS = torch.arange(-10.0, 8.0)  # that are tried: from almost nothing at once to almost everything
SLOWEST = 0.3  # speed in training: more passes do not improve the answers


def calibrate(shifts: Tensor, passes: Callable[[], Tensor]) -> None:
    """Set the shift of each speed, in place.

    shifts  (SPEED_KNOTS,) float, of the network
    passes  rolls out with the shifts as they are; returns the mean number of passes, ()
    """
    found = []
    for shift in SHIFTS:
        shifts.fill_(shift)
        found.append(passes())
    shifts.copy_(shifts_of_speeds(torch.stack(found).cpu()))


def shifts_of_speeds(passes: Tensor) -> Tensor:
    """The shift of each speed, (SPEED_KNOTS,); speeds are evenly spaced from 0 to 1.

    passes  (len(SHIFTS),) float  mean passes with each of `SHIFTS`
    """
    reached = (passes.min() / passes).cummax(0).values
    return torch.from_numpy(np.interp(np.linspace(0, 1, SPEED_KNOTS), reached.numpy(), SHIFTS.numpy())).float()
