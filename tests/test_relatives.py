"""Dense relatives of the families equal the stock networks of transformers, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.synthetic import dream_oracle, oracle_logits
from tests.synthetic_block import sdar_oracle
from tests.synthetic_relatives import (
    A2D_CONFIG,
    A2D_QWEN2_CONFIG,
    DIFFCODER_CONFIG,
    DREAM_REASONER_CONFIG,
    FAMILIES,
    ILLADA_CONFIG,
    seed_oracle,
)
from tests.wide import EQUAL, Wide
from unmask.models.loading import load_model

TOKENS = torch.randint(3, 260, (2, 45), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("family", "oracle", "config", "block_size"),
    [
        ("a2d_qwen3", sdar_oracle, A2D_CONFIG, None),
        ("a2d_qwen2", dream_oracle, A2D_QWEN2_CONFIG, None),
        ("illada", seed_oracle, ILLADA_CONFIG, None),
        ("stable_diffcoder", seed_oracle, DIFFCODER_CONFIG, 4),
        ("dream_reasoner", sdar_oracle, DREAM_REASONER_CONFIG, 8),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1, "rms_norm_eps": 0.1}], ids=str)
def test_relatives_equal_stock_networks(
    family: str,
    oracle: Callable[..., Any],
    config: dict[str, Any],
    block_size: int | None,
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    network = load_model(str(FAMILIES[family](tmp_path, **changes)), device="cpu", dtype="float32").network.double()
    with Wide(), torch.no_grad():
        found = network.logits(TOKENS)
        expected = oracle_logits(oracle({**config, **changes}).double(), TOKENS, block_size)
    torch.testing.assert_close(found, expected, atol=EQUAL, rtol=0)
