"""How far guidance is trusted: less and less while what it pays does not foretell what the environment pays.

    of the last episodes:   x = what following hints earned, per step       y = the environment's own return
    r, their correlation    t = r * sqrt((n - 2) / (1 - r^2))
    t >= 1                  the gate opens by a tenth of what is missing
    t < 1                   it closes by a tenth: also where x is the same whatever was done, as a flatterer's is

Where all returns are equal, nothing is known and nothing changes. It is looked at when an episode ends and holds for
the episodes that begin, so that the weight of guidance is the same at every step of one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

NUM_EPISODES = 64
"""That are looked back on."""
FEWEST_EPISODES = 20
"""Before anything is concluded."""
MIN_T = 1.0
STEP = 0.1


class Gate:
    """A number between 0 and 1 that guidance is multiplied by."""

    def __init__(self) -> None:
        self.value = 1.0
        self._episodes: deque[tuple[float, float]] = deque(maxlen=NUM_EPISODES)

    def note(self, earned: float, episode_return: float) -> None:
        """Notes an episode that ended.

        Args:
            earned: What following hints earned in it, per step, whatever its weight.
            episode_return: The environment's own.
        """
        self._episodes.append((earned, episode_return))
        foretells = self._foretells()
        if foretells is not None:
            self.value += STEP * ((1.0 if foretells else 0.0) - self.value)

    def state(self) -> tuple[float, list[tuple[float, float]]]:
        """Returns what `restore` takes."""
        return self.value, list(self._episodes)

    def restore(self, value: float, episodes: Sequence[tuple[float, float]]) -> None:
        """Goes on where `state` was taken."""
        self.value = value
        self._episodes.extend(episodes)

    def _foretells(self) -> bool | None:
        """Returns whether what hints earned foretells the return; None where nobody can tell."""
        num = len(self._episodes)
        earned, returns = np.array(self._episodes).T if num else (np.zeros(0), np.zeros(0))
        if num < FEWEST_EPISODES or not np.ptp(returns):
            return None
        if not np.ptp(earned):
            return False
        r = float(np.corrcoef(earned, returns)[0, 1])
        return r >= MIN_T * math.sqrt(max(0.0, 1 - r * r) / (num - 2))
