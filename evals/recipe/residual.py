"""Training with residual input: the model learns to read what a first forward thought of its masks.

Residual Context Diffusion (arXiv 2601.22954): a frozen reference reads the canvas, its predictions are mixed with the
embeddings of the model that is trained, and that model reads the mixtures in place of masks; the loss is the usual one.
Nothing is propagated through the first forward. Without a reference the model's own first forward takes its place, as
it does when decoding. Then only every other row is fed so: of the others it learns that first forward.
"""

import torch
from torch import Tensor

from unmask.engine.input_state import Embeddings, Shares, parse_input_state
from unmask.models.errors import CheckpointError
from unmask.models.loading import load_model
from unmask.models.packing import Given
from unmask.models.transformer import MaskedTransformer

OWN = "own"  # in place of a reference


class ResidualInput:
    """Makes what a network is fed in training.

    source   a checkpoint of the same vocabulary, or `own`
    mask_id  of the canvas

    Raises CheckpointError.
    """

    def __init__(self, source: str, network: MaskedTransformer, mask_id: int, device: torch.device):
        self._mask_id = mask_id
        self._reference = None if source == OWN else _reference(source, network, mask_id, device)

    def given(self, network: MaskedTransformer, canvas: Tensor) -> Given:
        """What is fed at the masks of a canvas (B, T). Gradients go through the embeddings alone."""
        fed = canvas == self._mask_id
        if self._reference is None:
            fed[1::2] = False
        index = fed.flatten().nonzero().squeeze(1)
        with torch.no_grad():
            logits = (self._reference or network).logits(canvas).flatten(0, 1)[index].float()
        share = parse_input_state("residual").share(step=0)
        every = torch.ones_like(index, dtype=torch.float32)
        shares = Shares(share.temperature * every, share.scale * every, every.bool() & share.by_entropy)
        return Given(index, Embeddings(network.embed.weight, self._mask_id).blend(logits, shares))


def _reference(source: str, network: MaskedTransformer, mask_id: int, device: torch.device) -> MaskedTransformer:
    model, rows = load_model(source, device=device.type, dtype="float32"), network.architecture.vocab_rows
    found = model.network.architecture.vocab_rows
    if (found, model.mask_id) != (rows, mask_id):
        raise CheckpointError(
            f"reference {source!r} has {found} embeddings and the mask {model.mask_id}, and what is trained has {rows} "
            f"and {mask_id}; give a checkpoint with the same tokenizer"
        )
    return model.network
