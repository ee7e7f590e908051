"""Whether a checkpoint may be gone on with: the run that it was taken of, and the one that is to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.checkpoint import RunState
from worker.config import CHANGEABLE, TrainConfig
from worker.errors import CheckpointUnusable


def check_same_run(state: RunState, config: TrainConfig, identity: Mapping[str, Any]) -> None:
    """Raises unless settings and models are those that the checkpoint was taken with.

    Args:
        state: Of the checkpoint.
        config: Settings of the run that is to go on.
        identity: What its policy, its tokenizer and its advisers are, by the names that `RunState` has for them.

    Raises:
        CheckpointUnusable: Naming all that differs.
    """
    was = {
        **config.recorded(state.config),
        **{name: getattr(state, name) for name in identity},
    }
    now = {**config.model_dump(mode="json"), **identity}
    differing = [
        f"{name} (was {was.get(name)}, now {value})"
        for name, value in now.items()
        if name not in CHANGEABLE and was.get(name) != value
    ]
    if differing:
        others_advise = now.get("guidance_sha256") != was.get("guidance_sha256") and config.service_url is None
        advised_by = (
            f" (--guidance-model {state.own_guidance_model})" if others_advise and state.own_guidance_model else ""
        )
        raise CheckpointUnusable(
            f"the run cannot go on with other settings: {', '.join(differing)}; "
            f"repeat the first ones{advised_by}, or start a new run in another --run-dir"
        )
