"""The numbers of one update, as they are shown and recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from worker.algorithms.algorithm import Metrics
from worker.buffers import Episode
from worker.stopwatch import PARTS, Part

SECONDS: dict[Part, str] = {
    "waiting": "wait_s",
    "environments": "env_s",
    "guidance": "guide_s",
    "learning": "learn_s",
    "pushing": "push_s",
    "saving": "save_s",
    "other": "other_s",
}
"""Each part's name in metrics.jsonl and TensorBoard."""


@dataclass(frozen=True)
class UpdateReport:
    """One update; docs/training.md explains each number."""

    update: int
    step: int  # environment steps of the run so far
    policy_version: int  # of the weights that this update pushed
    learning_rate: float
    mean_return: float  # of the last 100 episodes
    mean_length: float  # of the last 100 episodes, steps
    mean_shaping: float  # of a step, what guidance added to its reward
    guidance_trust: float  # 0 to 1
    hint_share: float  # probability that an episode which begins next shows the policy its hints
    stale_transitions: int
    staleness: int  # updates between the weights that acted and those that learned
    metrics: Metrics
    spent_s: dict[Part, float]  # seconds of each part; they add up to ...
    update_s: float  # ... all of it, from the report before to this one
    steps_per_s: float
    episodes: list[Episode]  # finished in this update

    def record(self) -> dict[str, Any]:
        """Returns the report as one flat record, a line of metrics.jsonl."""
        fields = asdict(self)
        episodes, metrics, spent_s = (fields.pop(name) for name in ("episodes", "metrics", "spent_s"))
        seconds = {SECONDS[part]: spent_s[part] for part in PARTS}
        return {**fields, **seconds, **metrics, "episodes": episodes}
