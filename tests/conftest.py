"""What holds for every test: no network, GPU tests run where there is a GPU, and some files are slow."""

import os

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
    "test_package",
    "test_playground",
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of slow files, and skip those marked `gpu` where torch finds no CUDA device."""
    import torch

    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
