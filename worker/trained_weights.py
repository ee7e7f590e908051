"""What of a policy a run trains, and how that travels: to the service, and into checkpoints.

| run             | a push and policy.safetensors hold       | it begins from                            |
| --------------- | ---------------------------------------- | ----------------------------------------- |
| `--lora-rank 0` | all weights                              | whatever the service serves               |
| `--lora-rank N` | adapters, heads, the base model's digest | the base model, or adapters like its own  |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from safetensors.torch import load

from hintwise import lora
from hintwise.errors import WeightsRejected
from hintwise.language_model import LanguageModel
from hintwise.lora_training import adapter_state, attach, base_state, load_adapter
from hintwise.policy import Policy
from hintwise.weights import apply, check_fits, dump, metadata_in, parts, state_of
from worker.errors import ServiceMismatch
from worker.lora_settings import LoraSettings
from worker.served_policy import ServedPolicy


class TrainedWeights(Protocol):
    """Moves what is trained in and out of a policy."""

    def fetch(self, served: ServedPolicy) -> None:
        """Takes over what the service serves now.

        Raises:
            ServiceMismatch: The run cannot go on from that.
        """

    def load(self, data: bytes) -> None:
        """Takes over the weights of a checkpoint.

        Raises:
            WeightsRejected: They do not fit, or belong to another model.
        """

    def dump(self, metadata: Mapping[str, str]) -> bytes:
        """Returns what is trained as a safetensors file, with `metadata` and its format."""


def trained_weights(policy: Policy, language_model: LanguageModel, settings: LoraSettings, seed: int) -> TrainedWeights:
    """Returns what a run trains of `policy`, which gets adapters where the settings say so.

    Raises:
        ModelNotFound: It should have adapters and cannot; the message says what to do.
    """
    if not settings.lora_rank:
        return WholeWeights(policy)
    alpha = settings.scaling_alpha
    attach(policy, rank=settings.lora_rank, alpha=alpha, targets=settings.target_names, seed=seed)
    return AdapterWeights(policy, base_sha256=language_model.sha256, alpha=alpha)


class WholeWeights:
    """Every weight is trained."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def fetch(self, served: ServedPolicy) -> None:
        self.load(served.fetch())

    def load(self, data: bytes) -> None:
        state = load(data)
        check_fits(state, state_of(self._policy))
        apply(self._policy, state)

    def dump(self, metadata: Mapping[str, str]) -> bytes:
        return dump(self._policy, {**metadata, lora.FORMAT_KEY: "full"})


class AdapterWeights:
    """Adapters and heads are trained.

    Args:
        policy: Has adapters already.
        base_sha256: Of the model that they were put into.
        alpha: They were put there with.
    """

    def __init__(self, policy: Policy, *, base_sha256: str, alpha: float) -> None:
        self._policy, self._base_sha256 = policy, base_sha256
        self._metadata = lora.metadata_of(base_sha256=base_sha256, alpha=alpha)

    def fetch(self, served: ServedPolicy) -> None:
        served.check_base(self._base_sha256)
        data = served.fetch(as_pushed=True)
        try:
            if lora.is_adapter(metadata_in(data)):
                self.load(data)
            else:
                self._begin_from_whole(data)
        except WeightsRejected as error:
            raise ServiceMismatch(
                f"adapters cannot go on from version {served.policy_version}, which the service serves: {error}; roll "
                "it back to weights that fit, or give the run a service of its own"
            ) from error

    def load(self, data: bytes) -> None:
        metadata = metadata_in(data)
        alpha = lora.check_metadata(metadata, self._base_sha256)
        if alpha != float(self._metadata[lora.ALPHA_KEY]):
            raise WeightsRejected(f"the adapters have alpha {alpha:g}, this run {self._metadata[lora.ALPHA_KEY]}")
        load_adapter(self._policy, load(data))

    def dump(self, metadata: Mapping[str, str]) -> bytes:
        return b"".join(parts(adapter_state(self._policy), {**metadata, **self._metadata}))

    def _begin_from_whole(self, data: bytes) -> None:
        """Takes the heads of weights whose trunk is the base model's.

        Raises:
            WeightsRejected: It is not.
        """
        state, base = load(data), base_state(self._policy)
        heads = {name: tensor for name, tensor in adapter_state(self._policy).items() if not lora.is_of_trunk(name)}
        check_fits(state, base | heads)
        if not all(torch.equal(state[name], tensor.cpu()) for name, tensor in base.items()):
            raise WeightsRejected("its trunk was trained as a whole, and adapters change the model as it was loaded")
        with torch.no_grad():
            for name, tensor in heads.items():
                tensor.copy_(state[name])
