"""What a speed is to a policy that is told it: the fewest passes possible, divided by those that it takes.

At speed 1 it reveals everything at once, at 0.5 it takes about twice as many passes; in the mean of the tasks and block
lengths that it was trained for, as passes go where they are needed. All logits are shifted alike, so
more speed can only reveal more; which shift makes a speed is measured.
"""

import numpy as np
import torch
from torch import Tensor

from unmask.policies.network import SPEED_KNOTS

SHIFTS = torch.arange(-10.0, 8.0)  # of logits that are tried: from next to nothing at once to nearly everything
SLOWEST = 0.3  # of the speeds that are trained for: with more passes, answers get no better


def shifts_of_speeds(passes: Tensor) -> Tensor:
    """For each of the evenly spaced speeds from 0 to 1, (SPEED_KNOTS,), the shift that makes it.

    passes (len(SHIFTS),) float: those that a policy takes with each of `SHIFTS`, in the mean.
    """
    reached = (passes.min() / passes).cummax(0).values
    return torch.from_numpy(np.interp(np.linspace(0, 1, SPEED_KNOTS), reached.numpy(), SHIFTS.numpy())).float()
