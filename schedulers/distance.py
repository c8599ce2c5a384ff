"""How far positions are from the nearest of some others."""

import torch
from torch import Tensor

FAR = 1 << 30  # columns


def distance(anchors: Tensor) -> Tensor:
    """Columns from each position to the nearest anchor of its row; about FAR where there is none.

    anchors (B, W) bool -> (B, W) long
    """
    column = torch.arange(anchors.shape[1], device=anchors.device)
    left = column.masked_fill(~anchors, -FAR).cummax(1).values
    right = column.masked_fill(~anchors, FAR).flip(1).cummin(1).values.flip(1)
    return torch.minimum(column - left, right - column)
