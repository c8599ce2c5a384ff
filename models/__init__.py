"""What tokens mean: networks, checkpoints, tokenizers. `load_model` is the way in."""
