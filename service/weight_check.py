"""What a file of weights must pass before it serves, whether pushed or kept.

| where it is checked | what                                                              |
| ------------------- | ----------------------------------------------------------------- |
| a thread            | metadata, names, shapes, dtypes, finiteness, form of the canary   |
| inference thread    | the canary's log-probs, with the new weights in place             |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hintwise import canary, lora, weights
from hintwise.action_batch import ScoredPrompt
from hintwise.errors import InferenceFailed, Offence, WeightsRejected
from hintwise.weights import StateDict
from service.policy_runner import PolicyRunner, Recorded
from service.weight_adapter import staged_adapter


class CanaryQuestion(NamedTuple):
    """A canary, and its prompts as the model reads them."""

    canary: canary.Canary
    items: list[ScoredPrompt]


class Verified(NamedTuple):
    """Weights that fit the policy."""

    state: StateDict  # staged
    question: CanaryQuestion | None
    """To be asked of the policy once it has them; None where the sender sent no canary."""
    base: StateDict | None
    """What they change, where they are an adapter."""


FORMATS = "full", lora.FORMAT


def verify(path: Path, runner: PolicyRunner) -> Verified:
    """Returns the weights in a file, those that an adapter stands for too. Takes long; not for the event loop.

    Raises:
        WeightsRejected: They do not fit the policy; offences name what does not.
        Unavailable: They are an adapter, and the model that it changes can be read no more.
    """
    metadata = weights.read_metadata(path)
    _check_metadata(metadata, runner)
    state = weights.read(path)
    if lora.is_adapter(metadata):
        adapter = staged_adapter(state, metadata, runner)
        return Verified(adapter.state, _question(metadata, runner), adapter.base)
    weights.check_fits(state, weights.state_of(runner.policy))
    return Verified(weights.staged(runner.policy, state), _question(metadata, runner), None)


def serve(verified: Verified, runner: PolicyRunner, commit: Callable[[], Recorded]) -> None:
    """Serves verified weights from the next batch on; see `PolicyRunner.swap`. Runs on the inference thread.

    Raises:
        Exception: Whatever `commit` raises; the old weights serve on.
    """
    runner.swap(verified.state, commit)
    runner.loaded_trunk.hold(verified.base)


def check_canary(question: CanaryQuestion, runner: PolicyRunner) -> None:
    """Raises unless `runner`, with the new weights in place, scores the canary as its sender did.

    Runs on the inference thread.

    Raises:
        WeightsRejected: Offences name prompt and action.
    """
    try:
        scored = runner.score(question.items)
    except InferenceFailed as error:
        raise WeightsRejected(
            "these weights score the canary with NaN or infinite numbers",
            errors=[Offence(canary.METADATA_KEY, error.detail)],
        ) from error
    canary.check(
        question.canary,
        [scores.log_probs for scores in scored],
        beta=runner.policy.inverse_temperature,
        num_parameters=runner.language_model.num_parameters,
    )


def _question(metadata: dict[str, str], runner: PolicyRunner) -> CanaryQuestion | None:
    text = metadata.get(canary.METADATA_KEY)
    if text is None:
        return None
    sent = canary.parse(text)
    items = canary.encode(sent, runner.policy, runner.encoder)
    return CanaryQuestion(sent, items)


def _check_metadata(metadata: dict[str, str], runner: PolicyRunner) -> None:
    """Raises `WeightsRejected` when the file says that it belongs to another kind of policy."""
    wanted = {
        "hintwise.architecture": runner.policy.architecture,
        "hintwise.tokenizer_sha256": runner.language_model.tokenizer_sha256,
    }
    offences = [
        Offence(name, f"says {metadata[name]}, but this service takes {value}")
        for name, value in wanted.items()
        if name in metadata and metadata[name] != value
    ]
    if (sent := metadata.get(lora.FORMAT_KEY, "full")) not in FORMATS:
        offences.append(Offence(lora.FORMAT_KEY, f"says {sent}, but this service takes {' and '.join(FORMATS)}"))
    if offences:
        raise WeightsRejected("the weights were made for another policy", errors=offences)
