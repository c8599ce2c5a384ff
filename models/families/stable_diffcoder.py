"""Stable-DiffCoder-8B, Base and Instruct (ByteDance Seed): Llama, attending in blocks of 4, logits not shifted.

Earlier revisions name Llama's class as their architecture and their own in `auto_map`. The mask is token 5, which
neither config nor tokenizer declares.
"""

from dataclasses import replace

from unmask.models import llama
from unmask.models.architecture import Architecture
from unmask.models.config import Config, integer

MODEL_TYPE = "llama"
ARCHITECTURES = ("StableDiffcoderForCausalLM", "SeedDiffcoderForCausalLM")
MASK_TOKEN = 5
STOP_TOKENS = ()
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED = llama.SUPPORTED

BLOCK_SIZE = 4  # the published configs name none

tensor_names = llama.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Llama's keys, and `block_size`."""
    return replace(llama.architecture(config), block_size=integer(config, "block_size", BLOCK_SIZE))
