"""What a policy sees of a step: the inputs of its network, which training replays as they were."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from unmask.policies.network import PolicyNetwork
from unmask.policies.store import PolicyConfig
from unmask.schedulers import Decision, Needs, View

SMALLEST_DOUBT = 1e-5  # log-odds are those of probabilities this far from 0 and 1


def needs_of(network: PolicyNetwork, config: PolicyConfig) -> Needs:
    """The statistics that a policy must be shown."""
    shape = network.shape
    return Needs(top_k=shape.top_k, remask=shape.remask, stops=shape.stops, window=config.observation)


@dataclass(frozen=True)
class Observation:
    """The inputs of a `PolicyNetwork`, and `eligible` (B, W) bool, the positions that it decides about.

    Those are the masks of the block; for one that remasks, all of the block.
    """

    mask: Tensor
    confidence: Tensor
    time: Tensor
    speed: Tensor
    seen: Tensor
    tokens: Tensor
    positions: Tensor
    stops: Tensor
    eligible: Tensor

    @staticmethod
    def of(view: View, network: PolicyNetwork, config: PolicyConfig) -> "Observation":
        """What a view shows to a policy whose needs it fulfils, and which has the option `speed`."""
        end = view.length if config.observation == "generation" else view.block_end
        confidence = view.need("top_probabilities")[..., : network.shape.top_k]
        if config.confidence == "log-odds":
            confidence = confidence.logit(SMALLEST_DOUBT)
        return Observation(
            mask=view.mask,
            confidence=confidence,
            time=view.step / view.length,
            speed=view.options["speed"],
            seen=view.positions < end[:, None],
            tokens=torch.where(view.mask, view.proposal, view.tokens),
            positions=view.positions,
            stops=view.need("stops") & view.mask if network.shape.stops else torch.zeros_like(view.mask),
            eligible=view.in_block if network.shape.remask else view.eligible,
        )

    def logits(self, policy: PolicyNetwork) -> Tensor:
        """(B, W)."""
        return policy(
            self.mask, self.confidence, self.time, self.speed, self.seen, self.tokens, self.positions, self.stops
        )

    def decision(self, chosen: Tensor) -> Decision:
        """To reveal the masks that are chosen, and take back the revealed tokens that it decides about and are not."""
        return Decision(chosen & self.mask, remask=self.eligible & ~self.mask & ~chosen)

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be recorded."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
