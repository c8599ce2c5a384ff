"""LLaDA as published: its network and its decoding loop, plain and eager, on the weights of a loaded model.

Written from arXiv 2502.09992 and its appendix B, one request after another. Every pass computes the whole canvas and
the logits of all positions over the whole vocabulary; no token is forbidden and no text ends early. Two
things differ: confidences are float32, since half precision has ties; and the last block may be shorter than the
others, with its share of the steps, which the published loop refuses.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.engine.request import Request
from unmask.errors import UserError
from unmask.evals.bench.memory import peak_bytes, reset_peak
from unmask.evals.bench.runs import BenchAnswer, Run
from unmask.models.loading import Model
from unmask.models.transformer import MaskedTransformer

# fmt: off
KNOWN = (  # fields of `Architecture`
    "vocab_rows", "hidden_size", "layers", "heads", "kv_heads", "head_dim", "ffn_size", "norm_eps", "rope_theta",
    "max_positions", "qkv_bias", "tied_head", "rope_float32", "shift",
)
# fmt: on


def require_plain(network: MaskedTransformer) -> None:
    """Raise UserError if the network has a feature that the reference was not written for."""
    a = network.architecture
    other = [field.name for field in fields(a) if field.name not in KNOWN and getattr(a, field.name) != field.default]
    if other:
        raise UserError(
            f"--against reference runs dense networks that attend in both directions, and this model has "
            f"{', '.join(other)}; leave the flag out"
        )


@torch.inference_mode()
def run_reference(model: Model, requests: Sequence[Request]) -> Run:
    """Answer the requests with one step per token, as LLaDA's authors advise for quality."""
    reset_peak(model.device)
    started = time.perf_counter()
    answers = [_answer(model, request) for request in requests]
    return Run(time.perf_counter() - started, tuple(answers), peak_bytes(model.device))


def _answer(model: Model, request: Request) -> BenchAnswer:
    started = time.perf_counter()
    canvas = torch.tensor([[*request.prompt, *[model.mask_id] * request.max_tokens]], device=model.device)
    steps = request.max_tokens
    generate(
        lambda x: logits_of(model.network, x), canvas, steps, request.max_tokens, request.block_length, model.mask_id
    )
    ids = canvas[0, len(request.prompt) :].tolist()
    end = next((i for i, token in enumerate(ids) if token in model.stop_ids), len(ids))
    return BenchAnswer(tuple(ids[:end]), steps, time.perf_counter() - started)


def generate(
    logits_of: Callable[[Tensor], Tensor], x: Tensor, steps: int, gen_length: int, block_length: int, mask_id: int
) -> None:
    """Fill the last `gen_length` tokens of a canvas x (1, T) in place: low confidence remasking at temperature 0."""
    first = x.shape[1] - gen_length
    for start in range(first, x.shape[1], block_length):
        end = min(start + block_length, x.shape[1])
        masks = int((x[:, start:end] == mask_id).sum())
        for count in get_num_transfer_tokens(masks, steps * (end - start) // gen_length):
            masked = x == mask_id
            logits = logits_of(x)  # (1, T, V)
            x0 = logits.argmax(-1)
            confidence = F.softmax(logits.float(), dim=-1).gather(-1, x0[..., None])[..., 0]
            confidence[:, end:] = -torch.inf
            confidence = torch.where(masked, confidence, -torch.inf)
            chosen = confidence[0].topk(count).indices
            x[0, chosen] = x0[0, chosen]


def get_num_transfer_tokens(masks: int, steps: int) -> list[int]:
    """How many tokens each step of a block reveals: an equal share, the first steps one more if it does not divide."""
    base, rest = divmod(masks, steps)
    return [base + (step < rest) for step in range(steps)]


def logits_of(network: MaskedTransformer, tokens: Tensor) -> Tensor:
    """Logits (B, T, vocab_rows) of tokens (B, T); entry [:, i] predicts the token at position i."""
    a = network.architecture
    x = network.embed.weight[tokens]
    rope = _rope(network, tokens.shape[1], x.dtype, x.device)
    for block in network.blocks:
        # The last two words of a name say what a tensor is, however the modules around it nest.
        w = {".".join(name.split(".")[-2:]): tensor for name, tensor in block.named_parameters()}
        x = x + _attention(w, _rms_norm(x, w["attn_norm.weight"], a.norm_eps), rope, a.head_dim)
        h = _rms_norm(x, w["ffn_norm.weight"], a.norm_eps)
        x = x + F.linear(F.silu(F.linear(h, w["gate.weight"])) * F.linear(h, w["up.weight"]), w["down.weight"])
    logits = F.linear(_rms_norm(x, network.norm.weight, a.norm_eps), network.head.weight)
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if a.shift else logits


def _attention(w: dict[str, nn.Parameter], h: Tensor, rope: tuple[Tensor, Tensor], head_dim: int) -> Tensor:
    """Every position of h (B, T, D) attends to every other."""
    q, k, v = (
        F.linear(h, w[f"{name}.weight"], w.get(f"{name}.bias")).unflatten(-1, (-1, head_dim)).transpose(1, 2)
        for name in "qkv"
    )  # (B, heads or kv_heads, T, head_dim)
    attended = F.scaled_dot_product_attention(
        _rotate(q, rope), _rotate(k, rope), v, enable_gqa=q.shape[1] != k.shape[1]
    )
    return F.linear(attended.transpose(1, 2).flatten(2), w["o.weight"])


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) in float32, cast back, times a weight (arXiv 1910.07467)."""
    x32 = x.float()
    return weight * (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rope(network: MaskedTransformer, length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, head_dim / 2) of the positions (arXiv 2104.09864), in float32 or the model's dtype."""
    a = network.architecture
    exponent = torch.arange(0, a.head_dim, 2, device=device).float() / a.head_dim
    angles = torch.outer(torch.arange(length, device=device).float(), a.rope_theta**-exponent)
    as_dtype = torch.float32 if a.rope_float32 else dtype
    return angles.cos().to(as_dtype), angles.sin().to(as_dtype)


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Half-split: dimension j is paired with j + head_dim / 2. x is (B, heads, T, head_dim)."""
    cos, sin = rope
    first, second = x.to(cos.dtype).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
