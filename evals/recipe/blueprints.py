"""The models that the recipe makes: how large, and what each is taught."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unmask.evals.tasks import EMBEDDED, TASKS, TRACES, Task
from unmask.evals.tasks.smalltalk import SMALLTALK
from unmask.models.architecture import Architecture
from unmask.models.families import llada

# Every step has one width, prompt and answer together, and problems that fit it: one call of the network for all
# tasks. Answers therefore stand in regions of many lengths, and a region's length says nothing but its bound.
WIDTHS = {96: 5, 128: 5, 160: 4, 192: 4, 256: 2}


@dataclass(frozen=True)
class Blueprint:
    """A model to be trained.

    config       config.json in LLaDA's keys, without the ids of special tokens
    tasks        what it is taught, by name
    shares       of `batch_size`, what a batch has of a task; tasks that are not named have all of it
    vocabulary   most tokens that are no special ones
    numbers      0 to this are tokens of their own, where the vocabulary has room
    repeats      how often the tokenizer's corpus lists them
    widths       tokens of a row, prompt and answer together, and how often a step has each
    block_share  of the rows, masked as decoding by blocks leaves them
    """

    name: str
    config: Mapping[str, Any]
    tasks: Mapping[str, Task]
    shares: Mapping[str, float]
    vocabulary: int
    numbers: int
    repeats: int
    widths: Mapping[int, int] = field(default_factory=lambda: WIDTHS)
    block_share: float = 0.0

    @property
    def architecture(self) -> Architecture:
        return llada.architecture(self.config)

    def sizes(self, batch_size: int) -> dict[str, int]:
        """Rows of a batch, by task."""
        return {name: max(1, round(batch_size * self.shares.get(name, 1))) for name in self.tasks}


_COMMON = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "max_sequence_length": 512,
    "mlp_ratio": 4,
    "rope": True,
    "rope_theta": 10000.0,
    "rope_full_precision": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
}


def _config(width: int, layers: int, heads: int, ffn: int, rows: int, dtype: str) -> dict[str, Any]:
    """`rows` of the embedding are a multiple of 64, some of them for no token, as real checkpoints have them."""
    sizes = {"d_model": width, "n_layers": layers, "n_heads": heads, "n_kv_heads": heads, "mlp_hidden_size": ffn}
    return {**_COMMON, **sizes, "vocab_size": rows, "embedding_size": rows, "torch_dtype": dtype}


NANO = Blueprint(
    "llada-nano",
    _config(128, 6, 4, 384, 448, "float32"),
    {name: TASKS[name] for name in EMBEDDED},
    shares={},
    vocabulary=506,
    numbers=20,
    repeats=100,
)
MICRO = Blueprint(
    "llada-micro",
    _config(256, 8, 4, 640, 1536, "bfloat16"),
    {**{name: task for name, task in TASKS.items() if name not in TRACES}, SMALLTALK.name: SMALLTALK},
    shares={
        "word-problems": 0.25,
        "sudoku": 0.5,
        "long-word-problems": 3,
        "list-chains": 3.5,
        "list-ops": 0.5,
        "list-shuffle": 0.125,
        "python": 1.5,
        SMALLTALK.name: 0.125,
    },
    vocabulary=1530,
    numbers=99,
    repeats=1500,
    block_share=0.5,
)
TRACE = Blueprint(
    "llada-trace",
    _config(128, 5, 4, 384, 640, "bfloat16"),
    {name: TASKS[name] for name in ("treasure-hunt", "coin-hunt", "running-totals", "short-hunt")},
    shares={"running-totals": 0.5, "short-hunt": 0.5},
    vocabulary=634,
    numbers=45,
    repeats=500,
    widths={240: 1, 256: 1},
)
CLOCK = Blueprint(
    "llada-clock",
    _config(128, 5, 4, 384, 448, "bfloat16"),
    {"clock-turns": TASKS["clock-turns"]},
    shares={},
    vocabulary=400,
    numbers=45,
    repeats=500,
    widths={216: 1},
    block_share=0.5,
)
BLUEPRINTS = {blueprint.name: blueprint for blueprint in (NANO, MICRO, TRACE, CLOCK)}
