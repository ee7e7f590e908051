"""Low-rank adapters as they travel: a few small matrices instead of a whole model.

    W'  =  W  +  alpha / r * B A        A (r, in), B (out, r); W is a layer of the trunk as it was loaded

    safetensors file                                      metadata
        trunk.transformer.h.0.attn.c_attn.lora_A.weight       hintwise.format       lora
        trunk.transformer.h.0.attn.c_attn.lora_B.weight       hintwise.base_sha256  the model that W is of
        ...                                                   hintwise.lora_alpha   alpha
        value_head.weight, beta, ...                      what of a policy is not its trunk, whole

The names are peft's, below the policy's own. Nothing here needs peft: the service adds the
product to the layer once, when an adapter arrives, and serves a plain model.

Source: Hu et al. 2022, LoRA: Low-rank adaptation of large language models, eq. 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hintwise.errors import Offence, WeightsRejected
from hintwise.policy import Policy
from hintwise.weights import StateDict, check_fits, state_of

FORMAT_KEY, FORMAT = "hintwise.format", "lora"
BASE_KEY = "hintwise.base_sha256"
ALPHA_KEY = "hintwise.lora_alpha"
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
TRUNK = "trunk."


class Adapter(NamedTuple):
    """An adapter that fits a policy."""

    heads: StateDict
    """What of the policy is not its trunk."""
    matrices: dict[str, tuple[Tensor, Tensor]]
    """A and B of each layer, by its name in the policy."""
    alpha: float


def is_adapter(metadata: Mapping[str, str]) -> bool:
    """Returns whether a file with this metadata holds an adapter instead of whole weights."""
    return metadata.get(FORMAT_KEY) == FORMAT


def is_of_trunk(name: str) -> bool:
    """Returns whether a tensor of a policy is its trunk's."""
    return name.startswith(TRUNK)


def metadata_of(*, base_sha256: str, alpha: float) -> dict[str, str]:
    """Returns what an adapter's file says about itself.

    Args:
        base_sha256: `LanguageModel.sha256` of what it was trained on.
        alpha: Divided by the rank, it scales the product of each pair.
    """
    return {FORMAT_KEY: FORMAT, BASE_KEY: base_sha256, ALPHA_KEY: repr(float(alpha))}


def check_metadata(metadata: Mapping[str, str], base_sha256: str) -> float:
    """Returns an adapter's alpha.

    Args:
        metadata: Of its file.
        base_sha256: Of the model that it shall change.

    Raises:
        WeightsRejected: It is missing, or the adapter was trained on another model.
    """
    if BASE_KEY not in metadata:
        raise WeightsRejected(
            "an adapter says which model it changes",
            errors=[Offence(BASE_KEY, f"is missing; here it is {base_sha256}")],
        )
    if metadata[BASE_KEY] != base_sha256:
        raise WeightsRejected(
            "the adapter was trained on another model; use the model that it was trained on, or train it again",
            errors=[Offence(BASE_KEY, f"says {metadata[BASE_KEY]}, but the model here is {base_sha256}")],
        )
    try:
        alpha = float(metadata.get(ALPHA_KEY, "nan"))
    except ValueError:
        alpha = math.nan
    if not (math.isfinite(alpha) and alpha > 0):
        raise WeightsRejected(
            "an adapter says how its product is scaled",
            errors=[Offence(ALPHA_KEY, f"is {metadata.get(ALPHA_KEY)!r}; send a number above 0, as `16.0`")],
        )
    return alpha


def check_adapter(
    state: Mapping[str, Tensor], metadata: Mapping[str, str], policy: Policy, *, base_sha256: str
) -> Adapter:
    """Returns the adapter in a file, once its names, shapes and dtypes fit `policy` and all of it is finite.

    Args:
        state: Tensors of the file.
        metadata: Of the same file.
        policy: Without adapters in its own modules.
        base_sha256: Of the model that `policy` was made of.

    Raises:
        WeightsRejected: With one entry per offending tensor or metadata field, the first few of them.
    """
    alpha = check_metadata(metadata, base_sha256)
    layers = sorted({name.removesuffix(end) for name in state for end in (DOWN, UP) if name.endswith(end)})
    reference = heads_of(policy)
    for layer in layers:
        reference |= _wanted(layer, state, policy)
    check_fits(state, reference)
    if not layers:
        raise WeightsRejected(
            "the file holds no adapter",
            errors=[Offence(FORMAT_KEY, f"says {FORMAT}, but no tensor's name ends in {DOWN} or {UP}")],
        )
    heads = {name: state[name] for name in heads_of(policy)}
    return Adapter(heads, {layer: (state[layer + DOWN], state[layer + UP]) for layer in layers}, alpha)


def heads_of(policy: Policy) -> StateDict:
    """Returns the tensors of a policy that are not its trunk's."""
    return {name: tensor for name, tensor in state_of(policy).items() if not is_of_trunk(name)}


def merged(adapter: Adapter, base: Mapping[str, Tensor], policy: Policy) -> StateDict:
    """Returns the whole weights that an adapter stands for.

    Tensors of `base` that no adapter changes are not copied.

    Args:
        adapter: As `check_adapter` returned it for `policy`.
        base: The trunk as it was loaded, under the policy's names, on the CPU.
        policy: Tells how each layer keeps its matrix.

    Raises:
        WeightsRejected: A sum is not finite.
    """
    changed: StateDict = {}
    for layer, (down, up) in adapter.matrices.items():
        name, scale = f"{layer}.weight", adapter.alpha / len(down)
        if isinstance(policy.get_submodule(layer), Conv1D):  # its matrix is (in, out)
            changed[name] = torch.addmm(base[name], down.t(), up.t(), alpha=scale)
        else:
            changed[name] = torch.addmm(base[name], up, down, alpha=scale)
    check_fits(changed, {name: base[name] for name in changed})
    return {**base, **changed, **adapter.heads}


def _wanted(layer: str, state: Mapping[str, Tensor], policy: Policy) -> StateDict:
    """Returns what a pair should look like, without memory of its own; nothing where no layer takes one.

    The rank is whatever A has, or B where A is missing, if that is any.
    """
    matrix = _matrix(layer, policy)
    if matrix is None:
        return {}
    num_inputs, num_outputs = matrix
    shapes = [(state[layer + end].shape, dim) for end, dim in ((DOWN, 0), (UP, 1)) if layer + end in state]
    rank = next((max(1, shape[dim]) for shape, dim in shapes if len(shape) == 2), 1)
    return {
        layer + DOWN: torch.empty(rank, num_inputs, device="meta"),
        layer + UP: torch.empty(num_outputs, rank, device="meta"),
    }


def _matrix(layer: str, policy: Policy) -> tuple[int, int] | None:
    """Returns how many numbers a layer of the trunk takes and gives; None where it is none that adapters change."""
    if not is_of_trunk(layer):
        return None
    try:
        module = policy.get_submodule(layer)
    except AttributeError:
        return None
    if f"{layer}.weight" not in state_of(policy):  # an output layer that shares the embedding's memory
        return None
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None
