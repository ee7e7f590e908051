"""A rollout in a checkpoint: one that was collected ahead and is not learned from yet, or one that SARSA remembers.

Arrays become tensors of the same names, everything else JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worker.buffers import Behaviour, Episode, Rollout, SeenState


def rollout_state(rollout: Rollout) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns all of a rollout as tensors, and as values that JSON holds."""
    every = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
    arrays = {name: value for name, value in every.items() if isinstance(value, np.ndarray)}
    values = {name: value for name, value in every.items() if name not in arrays}
    values["final_states"] = list(rollout.final_states.items())  # JSON's keys are strings
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, values


def rollout_of(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Rollout:
    """Returns what `rollout_state` was given.

    Raises:
        ValueError: Something is missing or has another form.
    """
    try:
        return Rollout(
            **{name: tensor.numpy().copy() for name, tensor in tensors.items()},
            prompts=list(values["prompts"]),
            action_phrases=[tuple(phrases) for phrases in values["action_phrases"]],
            final_states={int(place): _seen(state) for place, state in values["final_states"]},
            last_states=[_seen(state) for state in values["last_states"]],
            episodes=[Episode(*episode) for episode in values["episodes"]],
            behaviour=Behaviour(*values["behaviour"]),
            hinted_prompts=list(values["hinted_prompts"]),
            bare_prompts=list(values["bare_prompts"]),
            trust=float(values["trust"]),
            hint_share=float(values.get("hint_share", 0.0)),  # was not there at first
            distill_share=float(values["distill_share"]),
            staleness=int(values["staleness"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no whole rollout: {error}") from error


def _seen(state: Any) -> SeenState:
    prompt, phrases = state
    return str(prompt), tuple(phrases)
