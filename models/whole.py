"""The plainest pass: rows of one length, computed and predicted whole. Training takes it, and tests compare with it."""

import torch
from torch import Tensor

from unmask.models.architecture import Architecture
from unmask.models.packing import GroupLayout, KeyGroup, PackedBatch


def whole_rows(tokens: Tensor, a: Architecture, prompt: int = 0) -> PackedBatch:
    """The pass that computes and predicts every column of rows of one length, tokens (B, T), with prompts of one.

    In a causal network what is behind the prompt is one open block.
    """
    rows, length = tokens.shape
    column, lead = torch.arange(length, device=tokens.device), a.lead(prompt)
    source = (column - a.reach).clamp(min=0)  # whose hidden state predicts each column
    start = torch.arange(rows, device=tokens.device)[:, None] * length
    group = KeyGroup(rows, length, cached=False)

    def layout(queries: Tensor) -> GroupLayout:
        mask = None
        if a.causal:
            mask = ((column <= queries[:, None]) | (queries >= prompt)[:, None]).expand(rows, 1, -1, -1)
        elif a.block_size is not None:
            blocks = (column + lead) // a.block_size
            mask = (blocks <= blocks[queries][:, None]).expand(rows, 1, -1, -1)
        return GroupLayout((group,), (None,), (mask,), None)

    wanted = (start + source).flatten()
    return PackedBatch(tokens.flatten(), column.repeat(rows), wanted, layout(column), layout(source), None, None)
