"""Policies on disk: weights in the layout of the paper's code, and their configuration.

    model.safetensors   tensors named as in `PolicyNetwork`, after the prefix `base_policy.`
    policy.json         `PolicyConfig`: what the tensors do not show. A folder without it is read as the paper's
    README.md           the same and more, for people

arXiv 2512.09106; its authors released code and no weights.
"""

import json
import os.path
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from unmask import weights
from unmask.errors import closest
from unmask.policies.network import PolicyNetwork, PolicyShape
from unmask.schedulers import OptionError

PREFIX = "base_policy."
WEIGHTS, CONFIG = "model.safetensors", "policy.json"


class PolicyConfig(BaseModel):
    """How a policy runs and what it was trained for: the content of policy.json.

    observation   the positions that it sees: the whole generation region, as published, or the block alone
    block_length  block lengths of its training, in tokens, or full; it also runs with others, with other results
    confidence    how it sees the model's confidence: as probabilities, as published, or as log-odds, in which 0.99 and
                  0.999 are as far apart as 0.9 and 0.99
    speed         whether it has the wanted speed as an input
    write         whether its proposals are written over the revealed tokens that it does not want kept; otherwise those
                  become masks again
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    observation: Literal["generation", "block"] = "generation"
    block_length: tuple[int | Literal["full"], ...] = ()
    heads: int = Field(2, ge=1)
    confidence: Literal["probability", "log-odds"] = "probability"
    speed: bool = False
    write: bool = False


@dataclass(frozen=True)
class Policy:
    """A policy that is ready to run: its network in eval mode, without gradients, in float32."""

    network: PolicyNetwork
    config: PolicyConfig


def policy_names() -> list[str]:
    """The shipped policies, sorted."""
    folder = weights.HERE / "policies"
    return sorted(entry.parent.name for entry in folder.glob(f"*/{WEIGHTS}"))


def find_policy(policy: str) -> Path:
    """The folder of a shipped policy or of a path. Raises OptionError, about the option `policy`."""
    if policy in policy_names():
        return weights.HERE / "policies" / policy
    folder = Path(os.path.expanduser(policy))
    if (folder / WEIGHTS).is_file():
        return folder
    shipped = ", ".join(policy_names()) or "none"
    near = closest(policy, policy_names())
    hint = f"; did you mean {near!r}?" if near else ""
    raise OptionError(
        "policy",
        f"option 'policy' is {policy!r}, which is neither a shipped policy ({shipped}) nor a folder with a {WEIGHTS}"
        + hint,
    )


@cache
def load_policy(folder: Path) -> Policy:
    """Read a policy, once per process: a running server does not see later changes. Raises OptionError."""
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise OptionError("policy", f"{folder / WEIGHTS} cannot be read: {error}") from None
    config = _read_config(folder)
    tensors = {name.removeprefix(PREFIX): tensor.float() for name, tensor in tensors.items()}
    network = PolicyNetwork(_shape_of(tensors, config, folder))
    expected = network.state_dict()
    wrong = sorted(
        name
        for name in expected.keys() | tensors.keys()
        if name not in expected or name not in tensors or expected[name].shape != tensors[name].shape
    )
    if wrong:
        raise OptionError("policy", f"{folder / WEIGHTS} is not a policy: wrong or missing tensors: {', '.join(wrong)}")
    network.load_state_dict(tensors)
    return Policy(network.eval().requires_grad_(False), config)


def save_policy(folder: Path, network: PolicyNetwork, config: PolicyConfig) -> None:
    """Write weights and config."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))  # save_file lets only the owner read it
    (folder / CONFIG).write_text(json.dumps(config.model_dump(), indent=1) + "\n")


def _read_config(folder: Path) -> PolicyConfig:
    path = folder / CONFIG
    if not path.is_file():
        return PolicyConfig()
    try:
        return PolicyConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise OptionError("policy", f"{path}: {where}: {first['msg']}, not {first['input']!r}") from None


def _shape_of(tensors: dict[str, torch.Tensor], config: PolicyConfig, folder: Path) -> PolicyShape:
    """The shape, from the sizes of the tensors. Raises OptionError if tensors that show it are missing."""
    try:
        hidden_size, top_k = tensors["confidence_proj.weight"].shape
        ffn_size = len(tensors["transformer_blocks.0.linear1.weight"])
    except (KeyError, ValueError):
        message = f"{folder / WEIGHTS} is not a policy: it lacks {PREFIX}confidence_proj.weight"
        raise OptionError("policy", message) from None
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("transformer_blocks.")})
    vocabulary = len(tensors.get("token_embedding.weight", ()))
    return PolicyShape(
        hidden_size,
        config.heads,
        ffn_size,
        blocks,
        top_k,
        config.speed,
        remask="keep_proj.weight" in tensors,
        vocabulary=vocabulary,
        positions=not vocabulary and "position_proj.weight" in tensors,
        stops="stop_embedding.weight" in tensors,
        hidden=tensors["hidden_proj.weight"].shape[-1] if "hidden_proj.weight" in tensors else 0,
    )
