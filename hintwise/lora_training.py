"""Training low-rank adapters: peft puts them into a policy's trunk, and everything else of the trunk stands still.

attach(policy, ...)     the trunk's layers get A and B, B = 0: nothing has changed yet
adapter_state(policy)   what has been learned, as it travels; see `lora`
load_adapter(policy, .) puts it back
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from hintwise.errors import ModelNotFound
from hintwise.lora import is_of_trunk
from hintwise.policy import Policy
from hintwise.weights import StateDict, check_fits, state_of

NAMED = ".default."
"""peft's name for the one adapter of a layer; a file leaves it out, as peft's own files do."""


def attach(policy: Policy, *, rank: int, alpha: float, targets: Sequence[str] = (), seed: int) -> None:
    """Puts adapters into `policy`'s trunk and has them and the heads learn alone.

    Args:
        policy: Changed in place; it answers as before, for B is 0.
        rank: Rows of A.
        alpha: Divided by `rank`, it scales B A.
        targets: Ends of the names of the layers that get one, such as `c_attn`; none: peft's own choice for
            the architecture, which is `c_attn` for GPT-2.
        seed: A derives from it.

    Raises:
        ModelNotFound: peft is not installed, or finds no layer to change; the message says what to do.
    """
    if find_spec("peft") is None:
        raise ModelNotFound("training with LoRA needs peft: pip install 'hintwise[lora]'")
    from peft import LoraConfig, inject_adapter_in_model  # here: it is an extra, and takes seconds to import

    options: dict[str, Any] = {  # a fraction is as good an alpha as any, whatever peft's types say
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(targets) or None,
        "fan_in_fan_out": any(isinstance(module, Conv1D) for module in policy.trunk.modules()),
    }
    kind = policy.trunk.config.model_type
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(LoraConfig(**options), policy.trunk)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ModelNotFound(
            f"LoRA cannot change this model ({kind}): {reason}; name its layers with --lora-targets"
        ) from error
    policy.to(policy.device)
    policy.eval()
    policy.reread_trunk()


def adapter_state(policy: Policy) -> StateDict:
    """Returns the adapters and heads of a policy under the names they travel by, not copied."""
    return {
        name.replace(NAMED, "."): tensor
        for name, tensor in state_of(policy).items()
        if NAMED in name or not is_of_trunk(name)
    }


def base_state(policy: Policy) -> StateDict:
    """Returns the trunk without its adapters, under the names it has without them, not copied."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state_of(policy).items()
        if NAMED not in name and is_of_trunk(name)
    }


def load_adapter(policy: Policy, state: Mapping[str, Tensor]) -> None:
    """Copies adapters and heads into a policy that has adapters of the same shapes.

    Raises:
        WeightsRejected: Names, shapes or dtypes differ; offences name the tensors.
    """
    held = adapter_state(policy)
    check_fits(state, held)
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(state[name])
