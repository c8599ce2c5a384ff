"""What a chat gains from blocks that stay between its turns: `python -m unmask.evals.bench.chat`.

A network of SDAR's kind with random weights answers a chat, of which each turn holds all that was said before. An
engine that keeps finished blocks and one that keeps none answer the same chats in turn, alone. On a CPU the clock is
the processor time of one thread, so that other work on the machine counts little; elsewhere it is that on the wall.
"""

import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from statistics import median

import torch

from unmask.engine.caching import Cache
from unmask.engine.engine import Engine
from unmask.engine.request import Request, Result
from unmask.evals.bench.shapes import random_model
from unmask.models.config import Config
from unmask.schedulers import parse_scheduler_text

HEAD = 64  # width of one
FIRST = 3  # of the tokens that texts are made of; those before it are special


@dataclass(frozen=True)
class Turn:
    """Seconds to the first settled token and to the last, and what came out."""

    first: float
    whole: float
    result: Result


def sdar(given: Namespace) -> Config:
    """The config.json of a network of this shape."""
    return {
        "model_type": "sdar",
        "architectures": ["SDARForCausalLM"],
        "hidden_size": given.width,
        "num_hidden_layers": given.layers,
        "num_attention_heads": given.width // HEAD,
        "num_key_value_heads": max(1, given.width // HEAD // 4),
        "head_dim": HEAD,
        "intermediate_size": 3 * given.width,
        "vocab_size": 448,
        "max_position_embeddings": 8192,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "block_size": given.block,
        "mask_token_id": 447,
        "eos_token_id": 446,
    }


def take_turn(engine: Engine, request: Request) -> Turn:
    """Answer one turn."""
    clock = time.process_time if engine.model.device.type == "cpu" else time.perf_counter
    began, first = clock(), 0.0
    for step in engine.run([request]):
        first = first or (clock() - began if step.offsets else 0.0)
        if step.result is not None:
            return Turn(first, clock() - began, step.result)
    raise RuntimeError("the engine gave no answer")


def chat(engine: Engine, said: Sequence[Sequence[int]], given: Namespace) -> list[Turn]:
    """Answer turn after turn; `said` is the system prompt with the first question, then question after question."""
    prompt, turns, ids = list[int](), list[Turn](), count()
    scheduler = parse_scheduler_text(given.scheduler)
    for text in said:
        prompt += text
        request = Request(
            f"{next(ids)}", tuple(prompt), given.answer, given.block, scheduler, cache=Cache("block"), ignore_eos=True
        )
        turns.append(take_turn(engine, request))
        prompt += turns[-1].result.token_ids
    return turns


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    for name, default, help in (
        ("layers", 12, "layers of the network"),
        ("width", 768, "its hidden size"),
        ("block", 4, "its block"),
        ("turns", 10, "questions of a chat"),
        ("system", 256, "tokens before the first question"),
        ("question", 48, "tokens of each question"),
        ("answer", 64, "tokens of each answer"),
        ("rounds", 3, "chats; medians over them are shown"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=help)
    parser.add_argument("--scheduler", default="topk:n=2")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-invariant", action="store_true", help="compute settled columns in chunks of one shape")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        model = random_model(sdar(given), "SDAR", given.device, given.dtype)
    engines = [Engine(model, 1, batch_invariant=given.batch_invariant, prefix_reuse=reuse) for reuse in (False, True)]
    rounds = [[chat(engine, said, given) for engine in engines] for said in _chats(given)]
    rounds = rounds[1:]  # the first pays for set-up
    print("turn  prompt  found  first token, ms        whole answer, ms")
    for turn in range(given.turns):
        plain, found = ([chats[which][turn] for chats in rounds] for which in (0, 1))
        prompt, cached = found[0].result.prompt_tokens, found[0].result.cached_tokens
        print(f"{turn + 1:4}  {prompt:6}  {cached:5}  {_told(plain, found, 'first')}  {_told(plain, found, 'whole')}")
    sums = [[sum(turn.whole for turn in chats[which]) for chats in rounds] for which in (0, 1)]
    share = median(after / before for before, after in zip(*sums, strict=True))
    print(f"all turns: {median(sums[0]):.2f} s without, {median(sums[1]):.2f} s with, x {share:.2f}")
    pairs = [pair for chats in rounds for pair in zip(*chats, strict=True)]
    same = sum(one.result.token_ids == other.result.token_ids for one, other in pairs)
    print(f"{same} of {len(pairs)} answers are the same")


def _chats(given: Namespace) -> list[list[list[int]]]:
    draw = random.Random(0)
    sizes = [given.system + given.question] + [given.question] * (given.turns - 1)
    return [[[draw.randrange(FIRST, 440) for _ in range(n)] for n in sizes] for _ in range(given.rounds + 1)]


def _told(plain: Sequence[Turn], found: Sequence[Turn], name: str) -> str:
    """Milliseconds without and with, and the second as a share of the first: medians."""
    before, after = ([1000 * getattr(turn, name) for turn in turns] for turns in (plain, found))
    share = median(b / a for a, b in zip(before, after, strict=True))
    return f"{median(before):6.0f} {median(after):6.0f} x {share:.2f}"


if __name__ == "__main__":
    main()
