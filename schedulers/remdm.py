"""ReMDM: what was revealed may become a mask again, by the posterior of a diffusion that remasks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, wide
from unmask.schedulers.options import option

T_ON, T_OFF, ALPHA_ON = 0.55, 0.05, 0.9  # the plateau of `loop`, in time from 1 to 0, and how much is revealed there
ETA = {"cap": 0.02, "rescale": 0.015, "conf": 1.0, "loop": 0.02}


@dataclass(frozen=True)
class ReMDMOptions:
    form: str = option("conf", "how likely a revealed token is remasked", choices=tuple(ETA))
    passes: int | None = option(
        None, "forward passes over each block; null is one for each mask that it has at first", minimum=1
    )
    eta: float | None = option(
        None,
        "bound, factor or rate of remasking; null is 0.02 for cap and loop, 0.015 for rescale",
        minimum=0.0,
        maximum=1.0,
    )


class ReMDM:
    """Reveals and remasks at random, so that as much is revealed in each pass as in a diffusion without remasking.

    Formula: with t from 1 to 0 in T passes, s the next t, a = 1 - t: a mask is revealed with probability (a_s - (1 -
    sigma) a_t) / (1 - a_t), a revealed token remasked with probability sigma <= sigma_max = min(1, (1 - a_s) / a_t).
    `cap`: sigma = min(eta, sigma_max). `rescale`: eta sigma_max. `conf`: eta sigma_max softmax(-psi)_i over the
    revealed tokens, psi_i the confidence when it was revealed, and 0 for masks. `loop`: no remasking while a rises to
    0.9 at t = 0.55 and from t = 0.05 on; between them a stays and sigma = eta. Source: ReMDM (Wang et al., arXiv
    2503.00307, section 4, and its published code). A pass that would reveal nothing reveals its most confident
    position, as the engine asks; the last of the T reveals all, and a block without masks is over. Defaults: conf;
    T = masks; eta = 0.02, 0.015 for rescale, 1 for conf.
    """

    Options = ReMDMOptions
    needs = Needs(remask=True)

    def __init__(self, form: str):
        self._form = form

    def decide(self, view: View, state: State) -> Decision:
        begins = view.block_step == 0
        masks = torch.where(begins, view.eligible.sum(1), state.get("masks", view.step))  # (B,), of the block at first
        sureness = state.get("sureness", view.confidence).masked_fill(begins[:, None], 0.0)
        sureness = torch.where(view.eligible, view.confidence, sureness)  # of what is revealed, when it was
        passes = wide(torch.where(view.options["passes"] > 0, view.options["passes"], masks))
        t = 1 - view.block_step / passes
        s = (1 - (view.block_step + 1) / passes).clamp(min=0.0)
        eta = wide(view.options["eta"])
        eta = torch.where(eta.isnan(), torch.full_like(eta, ETA[self._form]), eta)
        revealed = ~view.mask & (sureness > 0)
        if self._form == "loop":
            reveal, remask = (chance[:, None] for chance in _loop(t, s, eta))
        else:
            reveal, remask = self._chances(t, s, eta, sureness.masked_fill(~revealed, torch.inf))
        draws, ends = wide(view.uniform()), (s == 0)[:, None]
        return Decision(
            view.eligible & ((draws < reveal) | ends),
            remask=revealed & (draws < remask) & ~ends,
            state={"masks": masks, "sureness": sureness},
        )

    def _chances(self, t: Tensor, s: Tensor, eta: Tensor, sureness: Tensor) -> tuple[Tensor, Tensor]:
        """How likely masks are revealed and revealed tokens remasked, (B, 1) or (B, W)."""
        alpha, later = 1 - t, 1 - s
        most = (s / alpha).clamp(max=1.0)  # infinite at first, where there is nothing to remask
        if self._form == "conf":
            share = (-wide(sureness)).softmax(1).nan_to_num(0.0)
            return ((later - alpha) / t)[:, None], (eta * most)[:, None] * share
        sigma = torch.minimum(eta, most) if self._form == "cap" else eta * most
        return ((later - (1 - sigma) * alpha) / t)[:, None], sigma[:, None]


def _loop(t: Tensor, s: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """The two chances of `loop`, (B,)."""
    rate = ALPHA_ON / (1 - T_ON)
    rising = (t - s) * rate / (1 - (1 - t) * rate)
    ending = (t - s) / t
    plateau = eta * ALPHA_ON / (1 - ALPHA_ON)
    early, late = t > T_ON, t <= T_OFF
    reveal = torch.where(early, rising, torch.where(late, ending, plateau))
    return reveal, eta.masked_fill(early | late, 0.0)
