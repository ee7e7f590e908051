"""Weights as bytes: state dict <-> safetensors, their digest, and whether they fit.

A copy that shares memory with another tensor (GPT-2 ties `lm_head` to `wte`) is left out:
safetensors refuses shared tensors, and loading the one restores the other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hintwise.errors import Offence, WeightsRejected

MAX_NAMED_OFFENCES = 8
"""A wrong architecture differs in every tensor; the first few tell enough."""

StateDict = dict[str, Tensor]


def state_of(module: nn.Module) -> StateDict:
    """Returns the tensors of `module` by name, each shared memory once, detached but not copied."""
    seen: set[tuple[int, torch.Size]] = set()
    state: StateDict = {}
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        state[name] = tensor.detach()
    return state


def dump(module: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns `module`'s weights as a safetensors file."""
    state = {name: tensor.cpu().contiguous() for name, tensor in state_of(module).items()}
    return save(state, metadata=dict(metadata or {}))


def read(path: Path) -> StateDict:
    """Returns the tensors of a safetensors file.

    Raises:
        WeightsRejected: The file is not whole safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsRejected(f"the body is not a safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata of a safetensors file.

    Raises:
        WeightsRejected: The file is not whole safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsRejected(f"the body is not a safetensors file: {error}") from error


def check_fits(state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """Raises unless `state` has exactly the names, shapes and dtypes of `reference`, all finite.

    Raises:
        WeightsRejected: With one entry per offending tensor, the first few of them.
    """
    offences = [offence for name in sorted({*state, *reference}) if (offence := _offence(name, state, reference))]
    if offences:
        named = offences[:MAX_NAMED_OFFENCES]
        raise WeightsRejected(f"{len(offences)} of {len(reference)} tensors do not fit the policy", errors=named)


def apply(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies checked weights into `module` in place, so that nothing which holds its tensors goes stale."""
    with torch.no_grad():
        for name, tensor in state_of(module).items():
            tensor.copy_(state[name])


def exchange(module: nn.Module, state: StateDict) -> None:
    """Copies checked weights into `module` in place, and what was there into `state`; twice changes nothing.

    The way back therefore costs no second copy of the model, only room for its largest tensor.
    It is taken before the first tensor changes, so that nothing can fail half-way.

    Args:
        module: Whose tensors are replaced.
        state: Tensors on the CPU, with the names, shapes and dtypes of `state_of(module)`.
    """
    held = state_of(module)
    scratch = torch.empty(max(tensor.nbytes for tensor in held.values()), dtype=torch.uint8)
    with torch.no_grad():
        for name, tensor in held.items():
            before = scratch[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            before.copy_(tensor)
            tensor.copy_(state[name])
            state[name].copy_(before)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns one hex digest of named tensors, whatever order or file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _offence(name: str, state: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Offence | None:
    """Returns what is wrong with one tensor, or None."""
    if name not in state:
        return Offence(name, "missing")
    if name not in reference:
        return Offence(name, "the policy has no such tensor")
    given, wanted = state[name], reference[name]
    if given.shape != wanted.shape:
        return Offence(name, f"shape {list(given.shape)}, but the policy has {list(wanted.shape)}")
    if given.dtype != wanted.dtype:
        return Offence(name, f"dtype {given.dtype}, but the policy has {wanted.dtype}")
    # The sum of finite numbers is finite but for overflow, and far cheaper than asking each.
    if not math.isfinite(given.sum().item()) and not torch.isfinite(given).all():
        return Offence(name, "holds NaN or infinite numbers")
    return None
