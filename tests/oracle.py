"""LLaDA's published decoding loop (arXiv 2502.09992), written plainly from its description: the test oracle."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM


@torch.no_grad()
def llada_generate(
    logits_of: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    steps: int,
    gen_length: int,
    block_length: int,
    mask_id: int,
) -> list[int]:
    """Low-confidence remasking at temperature 0, one request, no cache; returns the generated ids.

    logits_of  tokens (1, T) -> logits (1, T, V)
    """
    x = torch.tensor([*prompt, *[mask_id] * gen_length])[None]
    blocks = gen_length // block_length
    for block in range(blocks):
        end = len(prompt) + (block + 1) * block_length
        base, rest = divmod(block_length, steps // blocks)
        for step in range(steps // blocks):
            logits = logits_of(x)
            proposal = logits.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, proposal[..., None])[..., 0]
            confidence[x != mask_id] = -torch.inf
            confidence[:, end:] = -torch.inf
            chosen = confidence[0].topk(base + (step < rest)).indices
            x[0, chosen] = proposal[0, chosen]
    return x[0, len(prompt) :].tolist()


@torch.no_grad()
def fast_dllm_generate(
    stock: LlamaForCausalLM, prompt: Sequence[int], gen_length: int, block_length: int, mask_id: int, dual: bool
) -> list[int]:
    """Fast-dLLM's cached loop (arXiv 2505.22618, section 3.2) around a stock network: one token a pass, the surest.

    The first pass over a block computes everything; later ones the block, and without `dual` all that follows it, with
    the keys of the first pass for the rest. A key's place in the cache does not matter: each is rotated already.
    """
    x = torch.tensor([*prompt, *[mask_id] * gen_length])[None]
    everyone = torch.zeros(1, 1, x.shape[1], x.shape[1])
    for start in range(len(prompt), x.shape[1], block_length):
        end = min(start + block_length, x.shape[1])
        stop = end if dual else x.shape[1]
        whole = stock(x, attention_mask=everyone, use_cache=True)
        _reveal(x, whole.logits, start, end, mask_id)
        while (x[:, start:end] == mask_id).any():
            kept = DynamicCache()
            for layer, past in enumerate(whole.past_key_values.layers):
                keys, values = (torch.cat([y[:, :, :start], y[:, :, stop:]], dim=2) for y in (past.keys, past.values))
                kept.update(keys, values, layer)
            logits = torch.zeros_like(whole.logits)
            logits[:, start:stop] = stock(
                x[:, start:stop],
                attention_mask=everyone[:, :, start:stop],
                position_ids=torch.arange(start, stop)[None],
                past_key_values=kept,
            ).logits
            _reveal(x, logits, start, end, mask_id)
    return x[0, len(prompt) :].tolist()


def _reveal(x: Tensor, logits: Tensor, start: int, end: int, mask_id: int) -> None:
    """Write the surest proposal of a block."""
    probability, proposal = logits.softmax(-1).max(-1)
    probability[x != mask_id] = -torch.inf
    best = start + int(probability[0, start:end].argmax())
    x[0, best] = proposal[0, best]


@torch.no_grad()
def block_diffusion_generate(
    logits_of: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    gen_length: int,
    block_size: int,
    mask_id: int,
    from_prompt_end: bool = False,
) -> list[int]:
    """SDAR's and LLaDA2's published loop without its cache, at temperature 0, one token a pass, the surest.

    Blocks are counted from the first column, so the first one may hold the end of the prompt; in dLLM's loop for BD3LM
    they are counted from the prompt's end. What lies behind the block is not there yet: the model never sees it.
    """
    x = torch.tensor([*prompt, *[mask_id] * gen_length])[None]
    first = len(prompt) if from_prompt_end else len(prompt) // block_size * block_size
    for start in range(first, x.shape[1], block_size):
        end = min(start + block_size, x.shape[1])
        while (x[:, start:end] == mask_id).any():
            _reveal(x[:, :end], logits_of(x[:, :end]), start, end, mask_id)
    return x[0, len(prompt) :].tolist()
