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
    more = {"stops": shape.stops, "hidden": shape.hidden > 0}
    more |= {"write" if config.write else "remask": shape.remask}
    return Needs(top_k=shape.top_k, window=config.observation, **more)


def _hidden(view: View, width: int) -> Tensor:
    hidden = view.need("hidden")
    if hidden.shape[-1] != width:
        raise ValueError(
            f"the policy reads hidden states of {width} numbers and the model's have {hidden.shape[-1]}; use it with "
            "the model that it was trained for"
        )
    return hidden


@dataclass(frozen=True)
class Observation:
    """The inputs of a `PolicyNetwork`, and `eligible` (B, W) bool, the positions that it decides about.

    Those are the masks of the block; for one that remasks or writes, all of the block.
    """

    mask: Tensor
    confidence: Tensor
    time: Tensor
    speed: Tensor
    seen: Tensor
    tokens: Tensor
    positions: Tensor
    stops: Tensor
    hidden: Tensor
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
            hidden=_hidden(view, network.shape.hidden) if network.shape.hidden else confidence[..., :0],
            eligible=view.in_block if network.shape.remask else view.eligible,
        )

    def logits(self, policy: PolicyNetwork) -> Tensor:
        """(B, W)."""
        return policy(**{name: tensor for name, tensor in self.tensors().items() if name != "eligible"})

    def decision(self, chosen: Tensor, config: PolicyConfig) -> Decision:
        """To reveal the masks that are chosen, and to take back or write over the revealed tokens that it decides about
        and are not."""
        reveal, unwanted = chosen & self.mask, self.eligible & ~self.mask & ~chosen
        return Decision(reveal, write=unwanted) if config.write else Decision(reveal, remask=unwanted)

    def tensors(self) -> dict[str, Tensor]:
        """By name, to be recorded."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
