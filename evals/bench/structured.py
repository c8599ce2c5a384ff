"""What a form costs per step, at a large vocabulary: `python -m unmask.evals.bench.structured`.

A network of LLaDA's kind with random weights answers with a form and without one, in turn. The vocabulary has as many
tokens as LLaDA-8B's, of random letters, digits and signs. What the network itself costs grows with its layers and its
width, and what a form costs grows with the vocabulary, the width and the block, so smaller networks show larger shares.
"""

import argparse
import random
import statistics
import string
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from unmask.engine.engine import Engine
from unmask.engine.request import Request
from unmask.engine.structure import Structure, json_object, json_of
from unmask.evals.bench.shapes import LLADA_8B, random_model
from unmask.models.config import Config, integer
from unmask.models.tokenizer import Tokenizer
from unmask.schedulers import parse_scheduler

LONGEST = 12  # characters of a token
HEAD_WIDTH = 128
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        "kind": {"enum": ["person", "company", "place"]},
    },
    "required": ["name", "age", "tags", "kind"],
}
FORMS: dict[str, Structure | None] = {
    "free": None,
    "schema": json_of(SCHEMA, "json"),
    "json_object": json_object("json"),
}


def random_tokenizer(folder: Path, size: int) -> Tokenizer:
    """A byte-level tokenizer of so many tokens: all bytes, and merges of random pairs. It is written to a folder."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    draw, alphabet = random.Random(0), sorted(pre_tokenizers.ByteLevel.alphabet())
    parts = [*string.ascii_letters * 4, *string.digits, *string.punctuation, *["\u0120"] * 20]  # the last is the space
    vocabulary, merges = {text: i for i, text in enumerate(alphabet)}, list[tuple[str, str]]()
    while len(vocabulary) < size:
        left, right = draw.choice(parts), draw.choice(parts)
        if len(left + right) <= LONGEST and left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
            parts.append(left + right)
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return Tokenizer(folder, "PreTrainedTokenizerFast")


def step_seconds(engine: Engine, request: Request) -> float:
    """The seconds of the first step of an answer, when the whole block is masked."""
    engine.submit(request)
    began = time.perf_counter()
    engine.step()
    seconds = time.perf_counter() - began
    engine.cancel(request.id)
    return seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("layers", 16),
        ("width", 2048),
        ("prompt", 96),
        ("tokens", 64),
        ("block", 32),
        ("rounds", 20),
    ):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    heads = given.width // HEAD_WIDTH
    sizes = {"d_model": given.width, "mlp_hidden_size": 3 * given.width, "n_heads": heads, "n_kv_heads": heads}
    shape: Config = {**LLADA_8B, "n_layers": given.layers, **sizes}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = random_tokenizer(Path(folder), integer(LLADA_8B, "vocab_size"))
    engine = Engine(random_model(shape, "llada", "cpu", "float32", tokenizer=tokenizer), max_rows=1)
    plain = Request("", tuple(range(300, 300 + given.prompt)), given.tokens, given.block, parse_scheduler("topk"))
    for name, form in FORMS.items():
        began = time.perf_counter()
        engine.prepare(replace(plain, structure=form))
        print(f"{name}: prepared in {time.perf_counter() - began:.2f} s", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for number in range(1 + given.rounds):  # in turn, as the machine may be busier now and then
        for name, form in FORMS.items():
            request = replace(plain, id=f"{name} {number}", structure=form)
            seconds[name].append(step_seconds(engine, request))
    for name, found in seconds.items():
        # The first pays for what is made once.
        shares = [one / free for one, free in zip(found[1:], seconds["free"][1:], strict=True)]
        more = 100 * (statistics.median(shares) - 1)
        print(f"{name}: median {1000 * statistics.median(found[1:]):.0f} ms, {more:+.1f} % beside the free step before")


if __name__ == "__main__":
    main()
