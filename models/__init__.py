"""Networks, checkpoints and tokenizers. Start with `load_model`."""
