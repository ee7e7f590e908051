"""Files of adapters (`hintwise.format: lora`): the whole weights that they stand for.

pushed or kept file ─▶ check ─▶ trunk as loaded + alpha / r * B A ─▶ swap, as any weights
                                                                  └▶ GET /weights/{policy_version}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from hintwise import lora, weights
from hintwise.weights import StateDict
from service.policy_runner import PolicyRunner


class StagedAdapter(NamedTuple):
    """What an adapter makes of the policy."""

    state: StateDict  # ready for `weights.exchange`
    base: StateDict  # the trunk as it was loaded, for `LoadedTrunk.hold` once the state serves


def is_adapter_file(path: Path) -> bool:
    """Returns whether a kept version is an adapter.

    Raises:
        WeightsRejected: The file is not whole safetensors.
    """
    return lora.is_adapter(weights.read_metadata(path))


def staged_adapter(state: Mapping[str, Tensor], metadata: Mapping[str, str], runner: PolicyRunner) -> StagedAdapter:
    """Returns what a file's adapter makes of the policy. Takes long.

    On a CPU the tensors that it does not change are those of the trunk as it was loaded, and take no memory.

    Raises:
        WeightsRejected: It does not fit the policy, or was trained on another model.
        Unavailable: The trunk as it was loaded is to be had no more.
    """
    adapter = lora.check_adapter(state, metadata, runner.policy, base_sha256=runner.loaded_trunk.sha256)
    base = runner.loaded_trunk.tensors()
    whole = lora.merged(adapter, base, runner.policy)
    if runner.policy.device.type != "cpu":
        return StagedAdapter(weights.staged(runner.policy, whole), base)
    own = {name: tensor.clone() for name, tensor in adapter.heads.items()}  # theirs are the file's pages
    return StagedAdapter(whole | own, base)


def whole_file(path: Path, runner: PolicyRunner) -> list[bytes | memoryview]:
    """Returns a kept adapter as the file of the whole weights, in pieces. Takes long.

    The metadata are its own, the canary among them, but for what only an adapter has to say.

    Raises:
        NotRetained: The file is gone.
        WeightsRejected: It is damaged.
        Unavailable: The trunk as it was loaded is to be had no more.
    """
    metadata = weights.read_metadata(path)
    adapter = lora.check_adapter(weights.read(path), metadata, runner.policy, base_sha256=runner.loaded_trunk.sha256)
    whole = lora.merged(adapter, runner.loaded_trunk.tensors(), runner.policy)
    told = {name: text for name, text in metadata.items() if name not in (lora.BASE_KEY, lora.ALPHA_KEY)}
    return weights.parts(whole, told | {lora.FORMAT_KEY: "full"})
