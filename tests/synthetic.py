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
    _write_json(folder / "config.json", config)
    state = _stored(llada_oracle(config, seed), tied=config["weight_tying"])
    _write_tensors(folder, {_llada_name(name): tensor for name, tensor in state.items()}, files)
    _write_llada_tokenizer(folder)
    return folder


def synthetic_dream(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a Dream checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**DREAM_CONFIG, **changes}
    _write_json(folder / "config.json", config)
    _write_tensors(folder, _stored(dream_oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    _write_dream_tokenizer(folder)
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
    return _randomise(LlamaForCausalLM(stock), seed)


def dream_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen2ForCausalLM:
    """The stock network that a Dream checkpoint of this config and seed must equal, but for the shift."""
    taken = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    stock = Qwen2Config(
        **{key: config[key] for key in (*taken, "intermediate_size", "rms_norm_eps", "tie_word_embeddings")},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
    )
    return _randomise(Qwen2ForCausalLM(stock), seed)


def oracle_logits(oracle: Callable[..., Any], tokens: Tensor, positions: Tensor | None = None) -> Tensor:
    """Raw logits (B, T, V) with every token seeing every other: a 4-D mask of zeros stands in for the causal one."""
    rows, length = tokens.shape
    with torch.no_grad():
        everyone = torch.zeros(rows, 1, length, length)
        logits: Tensor = oracle(tokens, attention_mask=everyone, position_ids=positions).logits
    return logits


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """Change and drop keys of a JSON object in a file."""
    value = {**json.loads(path.read_text()), **changes}
    _write_json(path, {key: item for key, item in value.items() if key not in drop})


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Let `change` alter the tensors of a checkpoint of one file."""
    tensors = load_file(folder / SINGLE_FILE)
    change(tensors)
    save_file(tensors, folder / SINGLE_FILE)


def _randomise(network: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if "norm" in name else 0.3 * noise
    return network.eval()


def _stored(network: Any, tied: bool) -> dict[str, Tensor]:
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


def _write_tensors(folder: Path, tensors: dict[str, Tensor], files: int) -> None:
    """One file, or several with an index. Names are dealt out so that a layer's tensors lie in different files."""
    if files == 1:
        save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
        return
    weight_map = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _write_llada_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in LLADA_SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": LLADA_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_dream_tokenizer(folder: Path) -> None:
    _write_json(folder / "vocab.json", VOCABULARY)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES))
    _write_json(folder / "added_tokens.json", DREAM_IDS)
    special = {
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
    }
    _write_json(folder / "special_tokens_map.json", special)
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    config = {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "added_tokens_decoder": {str(i): {"content": text, **plain} for text, i in DREAM_IDS.items()},
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": DREAM_TEMPLATE,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
