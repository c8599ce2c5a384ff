"""Tiny checkpoints of each family in the layout of the originals, and the stock networks that they must equal.

Each holds what real checkpoints hold and toy ones forget: random norms and biases, a feed-forward width that is not
four times the width, fewer key/value heads than heads, more vocabulary rows than tokens. Tensor names are written out
here by hand, from the originals, and never taken from `models`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD = "model-{:05}-of-{:05}.safetensors"

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "a"), ("Ġ", "the"), ("1", "2")]
VOCABULARY = {text: i for i, text in enumerate([*ALPHABET, *(left + right for left, right in MERGES)])}  # 261

LLADA_SPECIAL = (
    *("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mdm_mask|>", "<role>", "</role>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
LLADA_IDS = {text: len(VOCABULARY) + i for i, text in enumerate(LLADA_SPECIAL)}
LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
LLADA_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM", "AutoConfig": "configuration_llada.LLaDAConfig"},
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "multi_query_attention": None,
    "mlp_hidden_size": 80,
    "mlp_ratio": 4,
    "vocab_size": 280,
    "embedding_size": 288,
    "max_sequence_length": 256,
    "rope": True,
    "rope_theta": 500000.0,
    "rope_full_precision": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-05,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "input_emb_norm": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "mask_token_id": LLADA_IDS["<|mdm_mask|>"],
    "eos_token_id": LLADA_IDS["<|endoftext|>"],
    "pad_token_id": LLADA_IDS["<|endoftext|>"],
    "use_cache": False,
}

DREAM_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|beginoftext|>", "<|mask|>"),
)
DREAM_IDS = {text: len(VOCABULARY) + i for i, text in enumerate(DREAM_SPECIAL)}
DREAM_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
DREAM_CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "model_type": "Dream",
    "auto_map": {"AutoModel": "modeling_dream.DreamModel", "AutoConfig": "configuration_dream.DreamConfig"},
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 288,
    "max_position_embeddings": 256,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_mrope": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "mask_token_id": DREAM_IDS["<|mask|>"],
    "bos_token_id": DREAM_IDS["<|endoftext|>"],
    "eos_token_id": DREAM_IDS["<|endoftext|>"],
    "pad_token_id": DREAM_IDS["<|endoftext|>"],
    "torch_dtype": "bfloat16",
}


def synthetic_llada(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an LLaDA checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**LLADA_CONFIG, **changes}
    write_json(folder / "config.json", config)
    state = stored(llada_oracle(config, seed), tied=config["weight_tying"])
    write_tensors(folder, {_llada_name(name): tensor for name, tensor in state.items()}, files)
    write_fast_tokenizer(folder, LLADA_SPECIAL, "<|startoftext|>", LLADA_TEMPLATE)
    return folder


def synthetic_dream(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a Dream checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**DREAM_CONFIG, **changes}
    write_json(folder / "config.json", config)
    write_tensors(folder, stored(dream_oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    auto_map = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    special = {"bos_token": "<|beginoftext|>", "mask_token": "<|mask|>"}
    write_qwen_tokenizer(
        folder, DREAM_IDS, DREAM_TEMPLATE, tokenizer_class="DreamTokenizer", auto_map=auto_map, **special
    )
    write_json(
        folder / "special_tokens_map.json",
        {**special, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    )
    return folder


def llada_oracle(config: Mapping[str, Any], seed: int = 0) -> LlamaForCausalLM:
    """The stock network that an LLaDA checkpoint of this config and seed must equal."""
    stock = LlamaConfig(
        vocab_size=config["embedding_size"] or config["vocab_size"],
        hidden_size=config["d_model"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config["n_kv_heads"] or config["n_heads"],
        intermediate_size=config["mlp_hidden_size"] or config["mlp_ratio"] * config["d_model"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        tie_word_embeddings=config["weight_tying"],
    )
    return randomise(LlamaForCausalLM(stock), seed)


def dream_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen2ForCausalLM:
    """The stock network that a Dream checkpoint of this config and seed must equal, but for the shift."""
    taken = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    stock = Qwen2Config(
        **{key: config[key] for key in (*taken, "intermediate_size", "rms_norm_eps", "tie_word_embeddings")},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
    )
    return randomise(Qwen2ForCausalLM(stock), seed)


def oracle_logits(oracle: Any, tokens: Tensor, block_size: int | None = None, padding: int = 0) -> Tensor:
    """Raw logits (B, T, V). A 4-D mask stands in for the causal one: tokens see their own block and those before it.

    block_size  None: every token sees every other
    padding     columns on the left, which nobody sees, that blocks are counted with
    """
    rows, length = tokens.shape
    block = (padding + torch.arange(length)) // (block_size or length)
    mask = torch.zeros(rows, 1, length, length, dtype=oracle.dtype).masked_fill(block > block[:, None], -torch.inf)
    with torch.no_grad():
        logits: Tensor = oracle(tokens, attention_mask=mask).logits
    return logits


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change and drop keys of a JSON object in a file."""
    value = {**json.loads(path.read_text()), **changes}
    write_json(path, {key: item for key, item in value.items() if key not in drop})


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Let `change` alter the tensors of a checkpoint of one file."""
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE)


def randomise(network: Any, seed: int) -> Any:
    """Give every parameter and buffer random values; norms are about 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict(keep_vars=True).items():
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.data = 1 + 0.3 * noise if "norm" in name else 0.3 * noise
    return network.eval()


def stored(network: Any, tied: bool) -> dict[str, Tensor]:
    """The tensors of a stock network; a tied head is not stored."""
    return {name: tensor for name, tensor in network.state_dict().items() if not (tied and name == "lm_head.weight")}


def _llada_name(stock: str) -> str:
    """LLaDA's name for a tensor of LlamaForCausalLM."""
    outer = {"model.embed_tokens": "wte", "model.norm": "ln_f", "lm_head": "ff_out"}
    inner = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "q_proj",
        "self_attn.k_proj": "k_proj",
        "self_attn.v_proj": "v_proj",
        "self_attn.o_proj": "attn_out",
        "post_attention_layernorm": "ff_norm",
        "mlp.gate_proj": "ff_proj",
        "mlp.up_proj": "up_proj",
        "mlp.down_proj": "ff_out",
    }
    module = stock.removesuffix(".weight")
    if module in outer:
        return f"model.transformer.{outer[module]}.weight"
    _, _, layer, leaf = module.split(".", 3)
    return f"model.transformer.blocks.{layer}.{inner[leaf]}.weight"


def write_tensors(folder: Path, tensors: dict[str, Tensor], files: int, shard: str = SHARD) -> None:
    """One file, or several with an index. Names are dealt out so that a layer's tensors lie in different files."""
    if files == 1:
        save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
        return
    weight_map = {name: shard.format(i % files + 1, files) for i, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_fast_tokenizer(folder: Path, special: tuple[str, ...], bos: str, template: str) -> None:
    """A tokenizer of one file, which declares no mask."""
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": bos,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_qwen_tokenizer(folder: Path, ids: dict[str, int], template: str, **config: Any) -> None:
    """A tokenizer in Qwen2's files; `config` is more of tokenizer_config.json."""
    write_json(folder / "vocab.json", VOCABULARY)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES))
    write_json(folder / "added_tokens.json", ids)
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    common = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {str(i): {"content": text, **plain} for text, i in ids.items()},
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", {**common, **config})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
