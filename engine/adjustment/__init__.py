"""What a request changes of the model's logits before a token is proposed: biases and penalties, and `min_p`."""

from unmask.engine.adjustment.request import Adjustment, adjustment_of

__all__ = ["Adjustment", "adjustment_of"]
