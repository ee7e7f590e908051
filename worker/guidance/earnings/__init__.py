"""What following hints earns, beside the environment's own reward: a form in each file.

    penalty     F_t = min(0, r_t)                     r_t = tanh(log pi(a|s,h) - log pi(a|s)), the `alignment` scorer's
    advice      F_t = r_t                             -1 to 1; the sum of an episode is capped
    bonus       F_t = 1 / max_hints                   where a goal is reached for the first time in the episode; capped
    potential   F_t = gamma * Phi_t+1 - Phi_t         Phi: how far hints have been carried out, 0 to 1

The potential alone promises that the optimal policy stays as it is. The others are to fall to 0.
"""

from __future__ import annotations

from hintwise.client import Client
from worker.guidance.earnings.advice import Advice
from worker.guidance.earnings.bonus import Bonus
from worker.guidance.earnings.earning import Earnings, Move
from worker.guidance.earnings.penalty import Penalty
from worker.guidance.earnings.potential import Potential
from worker.guidance.progress import Progress
from worker.guidance.settings import GuidanceSettings

__all__ = ["Advice", "Bonus", "Earnings", "Move", "Penalty", "Potential", "earnings"]


def earnings(
    settings: GuidanceSettings, client: Client, task: str | None, progress: Progress, *, gamma: float, num_envs: int
) -> Earnings:
    """Returns what pays as the settings say."""
    if settings.guidance_reward == "penalty":
        return Penalty(client, task)
    if settings.guidance_reward == "advice":
        return Advice(client, task)
    if settings.guidance_reward == "bonus":
        return Bonus(settings.max_hints)
    return Potential(progress.of, gamma=gamma, num_envs=num_envs, max_hints=settings.counted_hints)
