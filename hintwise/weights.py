"""Weights as bytes: state dict <-> safetensors, their digest, and whether they fit.

A copy that shares memory with another tensor (GPT-2 ties `lm_head` to `wte`) is left out:
safetensors refuses shared tensors, and loading the one restores the other.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hintwise.errors import Offence, WeightsRejected

MAX_NAMED_OFFENCES = 8
"""A wrong architecture differs in every tensor; the first few tell enough."""

DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The name of each dtype in a safetensors file, in the order in which safetensors itself lays tensors down."""
ALIGNMENT = 64
"""Bytes; what torch itself gives a tensor."""

StateDict = dict[str, Tensor]


def state_of(module: nn.Module) -> StateDict:
    """Returns the tensors of `module` by name, each shared memory once, detached but not copied."""
    return {name: tensor.detach() for name, tensor in _tensors(module).items()}


def dump(module: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    """Returns `module`'s weights as a safetensors file.

    Raises:
        ValueError: A tensor has a dtype that is not in `DTYPES`.
    """
    return b"".join(parts(state_of(module), metadata))


def parts(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> list[bytes | memoryview]:
    """Returns a safetensors file of named tensors in pieces: what stands before them, then each of them, not copied.

    The bytes are those of `safetensors.torch.save`, which copies a model three times on the way.

    Raises:
        ValueError: A tensor has a dtype that is not in `DTYPES`.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    if strange := next((name for name, tensor in state.items() if tensor.dtype not in DTYPES), None):
        raise ValueError(f"{strange} has dtype {state[strange].dtype}; a file of weights holds {[*DTYPES.values()]}")
    order = list(DTYPES)
    names = sorted(state, key=lambda name: (order.index(state[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name in names:
        start, end = end, end + state[name].nbytes
        dtype, shape = DTYPES[state[name].dtype], list(state[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    told += b" " * (-len(told) % 8)
    bodies = [state[name].flatten().view(torch.uint8).numpy().data for name in names]
    return [len(told).to_bytes(8, "little"), told, *bodies]


def metadata_in(data: bytes) -> dict[str, str]:
    """Returns the metadata of a whole safetensors file in memory; empty where it has none."""
    size = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    return metadata


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


def staged(module: nn.Module, state: Mapping[str, Tensor]) -> StateDict:
    """Returns checked weights in memory of their own on `module`'s device, ready for `exchange`. Takes long.

    Args:
        module: That they are for.
        state: Tensors with the names, shapes and dtypes of `state_of(module)`; a mapped file, as `read` gives it.
    """
    held = state_of(module)
    on_cpu = {name: tensor for name, tensor in held.items() if tensor.device.type == "cpu"}
    room = _room_for(on_cpu) | {name: torch.empty_like(held[name]) for name in held.keys() - on_cpu.keys()}
    return {name: tensor.copy_(state[name]) for name, tensor in room.items()}


def exchange(module: nn.Module, state: StateDict) -> None:
    """Gives `module` staged weights, and `state` what was there; twice changes nothing.

    On a CPU the tensors change hands, which takes no time and can fail nowhere. The objects that hold them,
    parameters and buffers, stay the same. Elsewhere they are copied: a captured CUDA graph knows addresses.

    Args:
        module: Whose tensors are replaced.
        state: As `staged` returned it for this module.
    """
    with torch.no_grad():
        for name, tensor in _tensors(module).items():
            if tensor.device.type == "cpu":
                tensor.data, state[name] = state[name], tensor.data
            else:
                before = tensor.detach().clone()
                tensor.copy_(state[name])
                state[name] = before


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns one hex digest of named tensors, whatever order or file they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> StateDict:
    """Returns the parameters and buffers of `module` by name, each shared memory once."""
    seen: set[tuple[int, torch.Size]] = set()
    tensors: StateDict = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        tensors[name] = tensor
    return tensors


def _room_for(state: Mapping[str, Tensor]) -> StateDict:
    """Returns tensors like those of `state`, on the CPU, holding anything; the memory goes back with the last of them.

    In huge pages where the system has them: a new page costs a fault, and a model is 100,000 small ones.
    """
    places, size = {}, 0
    for name, tensor in state.items():
        places[name] = size
        size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    block = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    room = torch.frombuffer(block, dtype=torch.uint8)
    return {
        name: room[place : place + state[name].nbytes].view(state[name].dtype).view(state[name].shape)
        for name, place in places.items()
    }


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
