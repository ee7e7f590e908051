"""Files of adapters (`hintwise.format: lora`): the whole weights that they stand for.

pushed or kept file ─▶ check ─▶ trunk as loaded + alpha / r * B A ─▶ swap, as any weights
                                                                  └▶ GET /weights/{policy_version}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hintwise import lora, weights
from hintwise.weights import StateDict
from service.policy_runner import PolicyRunner


def is_adapter_file(path: Path) -> bool:
    """Returns whether a kept version is an adapter.

    Raises:
        WeightsRejected: The file is not whole safetensors.
    """
    return lora.is_adapter(weights.read_metadata(path))


def staged_adapter(state: Mapping[str, Tensor], metadata: Mapping[str, str], runner: PolicyRunner) -> StateDict:
    """Returns what a file's adapter makes of the policy, ready for `weights.exchange`. Takes long.

    On a CPU the tensors that it does not change are those of the trunk as it was loaded, and take no memory.

    Raises:
        WeightsRejected: It does not fit the policy, or was trained on another model.
        Unavailable: The trunk as it was loaded is to be had no more.
    """
    adapter = lora.check_adapter(state, metadata, runner.policy, base_sha256=runner.loaded_trunk.sha256)
    whole = lora.merged(adapter, runner.loaded_trunk.tensors(), runner.policy)
    if runner.policy.device.type != "cpu":
        return weights.staged(runner.policy, whole)
    return whole | {name: tensor.clone() for name, tensor in adapter.heads.items()}  # those are the file's own pages


def whole_file(path: Path, runner: PolicyRunner) -> list[bytes | memoryview]:
    """Returns a kept adapter as the file of the whole weights, in pieces. Takes long.

    The metadata are its own, the canary among them, but for what only an adapter has to say.

    Raises:
        NotRetained: The file is gone.
        WeightsRejected: It is damaged.
        Unavailable: The trunk as it was loaded is to be had no more.
    """
    metadata = weights.read_metadata(path)
    whole = staged_adapter(weights.read(path), metadata, runner)
    told = {name: text for name, text in metadata.items() if name not in (lora.BASE_KEY, lora.ALPHA_KEY)}
    return weights.parts(whole, told | {lora.FORMAT_KEY: "full"})
