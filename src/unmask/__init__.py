"""An inference server for masked diffusion language models with pluggable unmasking schedulers."""
