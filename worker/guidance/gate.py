"""How far guidance is trusted, 0 to 1: what its reward and its lessons are multiplied by; and how often it is heard.

Where some episodes show their hints and others, drawn by chance, do not, the two are compared, as in a randomised
trial of the hints (`Trial`). Where none or all show them, what following them earned has to foretell what the
environment pays (`Forecast`). Neither knows which hints are right.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from worker.buffers import Floats
from worker.guidance.settings import GuidanceSettings

NUM_EPISODES = 64
"""That are looked back on; of a trial's two kinds together, twice as many."""
MAX_T = 1e6
"""Of a difference without any spread; a checkpoint keeps finite numbers."""
ROUNDING = 1e-9
"""Differences of returns that are none."""


class GuidedEpisode(NamedTuple):
    """What a gate is told of an episode."""

    shown: bool  # its hints, to the policy
    earned: float  # by following hints, per step, whatever the weight
    episode_return: float  # the environment's own
    propensity: float  # with which its hints were to be shown when it began


GateState: TypeAlias = tuple[float, list[GuidedEpisode]]
"""What a gate goes by, and the episodes that it looks back on."""


class Gate(Protocol):
    """Says how far guidance is trusted."""

    @property
    def value(self) -> float:
        """How far, 0 to 1."""

    @property
    def shows(self) -> float:
        """Of the episodes that may show their hints, the share that does; above 0, or nobody could think again."""

    def note(self, episode: GuidedEpisode) -> None:
        """Notes an episode that ended."""

    def look(self, running: Sequence[GuidedEpisode]) -> None:
        """Looks at the episodes that go on, as far as they have come."""

    def state(self) -> GateState:
        """Returns what `restore` takes."""

    def restore(self, number: float, episodes: Iterable[GuidedEpisode]) -> None:
        """Goes on where `state` was taken."""


class Trial:
    """Trusts hints as far as episodes that show them come to more than those that do not.

        mean   = sum w_i G_i / sum w_i              w_i = 1 / p_i where hints were shown, 1 / (1 - p_i) where not
        error² = n / (n - 1) * sum w_i² (G_i - mean)² / (sum w_i)²
        t      = (mean with - mean without) / sqrt(error²_with + error²_without)
        trust  = t / 2, within 0 and 1
        shows  = t + 2, within 1/8 and 1

    of the returns G of the last 128 episodes, both kinds from the same stretch of the run, and of those that go on with
    what they have earned so far: a success ends an episode early, and without them the first to end would speak for
    all. p is the share of episodes that was to show hints when the episode began. It follows t, so that one kind is
    rarer at some times than at others: unweighted, a policy that learns would be compared with itself at another time.
    Nothing is trusted before it has helped: without a difference, where all fail for instance, trust is 0. It falls
    again as the policy learns to do without.
    Where hints do harm, beyond what chance does in one look of six, fewer episodes are spent on them, but always some:
    hints may come right.

    Source: Welch 1947, The generalization of Student's problem, for t; Hájek 1971, Comment on An essay on the logical
    foundations of survey sampling, for the means.
    """

    FULL_T = 2.0
    FULL_SHOWING_T = -1.0
    FEWEST_SHOWN = 0.125
    FEWEST_EPISODES = 3  # of each kind

    def __init__(self) -> None:
        self._t = 0.0
        self._ended = deque[GuidedEpisode](maxlen=2 * NUM_EPISODES)  # one for both kinds, or the rarer reaches far back

    @property
    def value(self) -> float:
        return min(max(self._t / self.FULL_T, 0.0), 1.0)

    @property
    def shows(self) -> float:
        return min(max(1 + self._t - self.FULL_SHOWING_T, self.FEWEST_SHOWN), 1.0)

    def note(self, episode: GuidedEpisode) -> None:
        self._ended.append(episode)

    def look(self, running: Sequence[GuidedEpisode]) -> None:
        episodes = (*self._ended, *running)
        shown = np.array([(each.episode_return, 1 / each.propensity) for each in episodes if each.shown])
        hidden = np.array([(each.episode_return, 1 / (1 - each.propensity)) for each in episodes if not each.shown])
        if min(len(shown), len(hidden)) < self.FEWEST_EPISODES:
            return
        (mean, square), (other_mean, other_square) = _weighted_mean(*shown.T), _weighted_mean(*hidden.T)
        gained, error = mean - other_mean, math.sqrt(square + other_square)
        if abs(gained) <= ROUNDING:
            self._t = 0.0
        else:
            self._t = gained / error if error > ROUNDING else math.copysign(MAX_T, gained)

    def state(self) -> GateState:
        return self._t, list(self._ended)

    def restore(self, number: float, episodes: Iterable[GuidedEpisode]) -> None:
        self._t = number
        self._ended.extend(episodes)


def _weighted_mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Returns the mean of (n,) values and the square of its standard error."""
    count, total = len(values), weights.sum()
    mean = (weights * values).sum() / total
    spread = (weights**2 * (values - mean) ** 2).sum() / total**2
    return float(mean), float(spread * count / (count - 1))


class Forecast:
    """Trusts guidance less and less while what it pays does not foretell what the environment pays.

        of the last episodes:   x = what following hints earned, per step       y = the environment's own return
        r, their correlation    t = r * sqrt((n - 2) / (1 - r^2))
        t >= 1                  the gate opens by a tenth of what is missing
        t < 1                   it closes by a tenth: also where x is the same whatever was done, as a flatterer's is

    Where all returns are equal, nothing is known and nothing changes.
    """

    FEWEST_EPISODES = 20
    MIN_T = 1.0
    STEP = 0.1
    shows = 1.0

    def __init__(self) -> None:
        self.value = 1.0
        self._ended = deque[GuidedEpisode](maxlen=NUM_EPISODES)

    def note(self, episode: GuidedEpisode) -> None:
        self._ended.append(episode)
        foretells = self._foretells()
        if foretells is not None:
            self.value += self.STEP * ((1.0 if foretells else 0.0) - self.value)

    def look(self, running: Sequence[GuidedEpisode]) -> None:
        return

    def state(self) -> GateState:
        return self.value, list(self._ended)

    def restore(self, number: float, episodes: Iterable[GuidedEpisode]) -> None:
        self.value = number
        self._ended.extend(episodes)

    def _foretells(self) -> bool | None:
        """Returns whether what hints earned foretells the return; None where nobody can tell."""
        num = len(self._ended)
        earned = np.array([each.earned for each in self._ended])
        returns = np.array([each.episode_return for each in self._ended])
        if num < self.FEWEST_EPISODES or not np.ptp(returns):
            return None
        if not np.ptp(earned):
            return False
        r = float(np.corrcoef(earned, returns)[0, 1])
        return r >= self.MIN_T * math.sqrt(max(0.0, 1 - r * r) / (num - 2))


class Open:
    """Trusts guidance, whatever comes of it."""

    shows = 1.0

    def __init__(self) -> None:
        self.value = 1.0

    def note(self, episode: GuidedEpisode) -> None:
        return

    def look(self, running: Sequence[GuidedEpisode]) -> None:
        return

    def state(self) -> GateState:
        return self.value, []

    def restore(self, number: float, episodes: Iterable[GuidedEpisode]) -> None:
        self.value = number


def gate_of(settings: GuidanceSettings) -> Gate:
    """Returns the gate that settings allow."""
    if not settings.guidance_gate:
        return Open()
    if settings.shows_hints and 0 < settings.hint_dropout < 1:
        return Trial()
    return Forecast() if settings.pays_for_guidance else Open()
