"""The numbers of one update, as they are shown and recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from worker.algorithms.ppo import UpdateMetrics
from worker.buffers import Episode


@dataclass(frozen=True)
class UpdateReport:
    """One update; docs/training.md explains each number."""

    update: int
    step: int  # environment steps of the run so far
    policy_version: int  # of the weights that this update pushed
    learning_rate: float
    mean_return: float  # of the last 100 episodes
    mean_length: float  # of the last 100 episodes, steps
    stale_transitions: int
    metrics: UpdateMetrics
    rollout_s: float  # collecting, of which ...
    wait_s: float  # ... waiting for the service
    learn_s: float  # gradients
    push_s: float  # weights to the service
    update_s: float  # all of it
    steps_per_s: float
    episodes: list[Episode]  # finished in this update

    def record(self) -> dict[str, Any]:
        """Returns the report as one flat record, a line of metrics.jsonl."""
        fields = asdict(self)
        episodes, metrics = fields.pop("episodes"), fields.pop("metrics")
        return {**fields, **metrics, "episodes": episodes}
