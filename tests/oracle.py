"""LLaDA's published decoding loop (arXiv 2502.09992), written plainly from its description: the test oracle."""

from collections.abc import Sequence

import torch
from torch import nn


@torch.no_grad()
def llada_generate(
    network: nn.Module, prompt: Sequence[int], steps: int, gen_length: int, block_length: int, mask_id: int
) -> list[int]:
    """Low-confidence remasking at temperature 0, one request, no cache; returns the generated ids."""
    x = torch.tensor([*prompt, *[mask_id] * gen_length])[None]
    blocks = gen_length // block_length
    for block in range(blocks):
        end = len(prompt) + (block + 1) * block_length
        base, rest = divmod(block_length, steps // blocks)
        for step in range(steps // blocks):
            logits = network(x)
            proposal = logits.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, proposal[..., None])[..., 0]
            confidence[x != mask_id] = -torch.inf
            confidence[:, end:] = -torch.inf
            chosen = confidence[0].topk(base + (step < rest)).indices
            x[0, chosen] = proposal[0, chosen]
    return x[0, len(prompt) :].tolist()
