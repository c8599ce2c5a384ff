"""A checkpoint of a real shape, 28 layers of 1024 and 151,936 tokens, with random weights: what `unmask bench` times.

`python -m tests.large_vocabulary FOLDER` writes 2.7 GB there. Every id has a token of its own, since the engine
proposes none that the tokenizer lacks.
"""

import json
import sys
from pathlib import Path

from tests.synthetic import synthetic_llada, write_json

TOKENS = 151_936
SHAPE = {
    "d_model": 1024,
    "n_layers": 28,
    "n_heads": 16,
    "n_kv_heads": 16,
    "mlp_hidden_size": 3072,
    "vocab_size": TOKENS,
    "embedding_size": TOKENS,
    "max_sequence_length": 1024,
}


def fill_vocabulary(folder: Path, tokens: int) -> None:
    """Give the tokenizer of a synthetic checkpoint a token for each id up to `tokens`."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    taken = {*vocabulary.values(), *(each["id"] for each in tokenizer["added_tokens"])}
    vocabulary |= {f"token{i}": i for i in range(tokens) if i not in taken}
    write_json(path, tokenizer)


if __name__ == "__main__":
    fill_vocabulary(synthetic_llada(Path(sys.argv[1]), **SHAPE), TOKENS)
