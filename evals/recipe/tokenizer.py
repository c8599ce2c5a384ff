"""A trained model's tokenizer: byte-level BPE with LLaDA's special tokens and chat template."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from unmask.evals.recipe.blueprints import Blueprint

SPECIAL_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "mask_token": "<|mdm_mask|>",
    "start_header": "<|start_header_id|>",
    "end_header": "<|end_header_id|>",
    "end_of_turn": "<|eot_id|>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CORPUS_PROBLEMS = 4000  # of each task


def build_tokenizer(blueprint: Blueprint) -> Tokenizer:
    """Train the tokenizer on training problems; the blueprint's numbers are one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=blueprint.vocabulary,
        min_frequency=20,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(blueprint), trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL_TOKENS.values()])
    return tokenizer


def token_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of one of SPECIAL_TOKENS, by its key."""
    found = tokenizer.token_to_id(SPECIAL_TOKENS[name])
    assert found is not None
    return found


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as LLaDA's repositories hold them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS["bos_token"],
        "eos_token": SPECIAL_TOKENS["eos_token"],
        "pad_token": SPECIAL_TOKENS["eos_token"],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _corpus(blueprint: Blueprint) -> Iterator[str]:
    for task in blueprint.tasks.values():
        for problem in islice(task.problems(seed=0, split="train"), CORPUS_PROBLEMS):
            yield problem.prompt + "\n\n" + problem.solution
    for _ in range(blueprint.repeats):
        yield "user\n\nassistant\n\nsystem\n\n"
        yield "".join(f"{number}\n {number}\n" for number in range(blueprint.numbers + 1))
