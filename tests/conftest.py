"""What holds for every test: no network, GPU tests only with a GPU, which files are slow, and which come first."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once

# Files that take most of the suite's time: they start processes and browsers, train, or count memory over crowds.
SLOW = {
    "test_abuse",
    "test_answers",
    "test_batch_invariance",
    "test_bench",
    "test_block_decoding",
    "test_caching",
    "test_clients",
    "test_commands",
    "test_compiled_versions",
    "test_confinement",
    "test_docs_page",
    "test_draft",
    "test_drawn_tasks",
    "test_endless",
    "test_ends",
    "test_engine",
    "test_examples",
    "test_fake_device",
    "test_four_bits",
    "test_graphs",
    "test_infilling",
    "test_input_states",
    "test_list_tasks",
    "test_lora",
    "test_micro",
    "test_package",
    "test_playground",
    "test_playground_show",
    "test_policies",
    "test_python_functions",
    "test_quantization",
    "test_ranks",
    "test_ray",
    "test_recipe",
    "test_revising",
    "test_sandbox",
    "test_scheduler_page",
    "test_serve",
    "test_server_score",
    "test_server_tokens",
    "test_structure",
    "test_sweep",
    "test_train_policy",
}

# The longest files, so that none of them begins when all others are done. With the options of the Makefile files are
# handed out in this order.
FIRST = (
    *("test_ray", "test_ends", "test_clients", "test_train_policy", "test_abuse", "test_ranks", "test_serve"),
    *("test_fake_device", "test_package", "test_playground_show", "test_input_states", "test_batch_invariance"),
    *("test_caching", "test_engine", "test_compiled_versions", "test_draft", "test_commands", "test_bench"),
    *("test_server_tools", "test_llm", "test_prefixes", "test_presets", "test_server_habits", "test_bodies"),
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files in which nothing has the marks that are asked for: importing them takes a while."""
    if collection_path.suffix != ".py":
        return None
    marks, slow = str(config.option.markexpr), collection_path.stem in SLOW
    if slow:
        return "not slow" in marks or None
    return (marks == "slow" and "mark.slow" not in collection_path.read_text()) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of slow files, skip those marked `gpu` where torch finds no CUDA device, and put long files first."""
    import torch

    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
