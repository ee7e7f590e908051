"""Pays for progress, and takes it back where it is lost: F_t = gamma * Phi_t+1 - Phi_t, Phi from 0 to 1.

    hints held for some steps      Phi = progress of the hint in force
    hints held until done          Phi = min(completed + progress, max_hints) / max_hints

completed: goals of hints that were done, each once an episode. A goal that is in force again has no progress to make.

Phi is asked for once for each time step, with the hint that is in force then, and kept for the step after, so that the
F of an episode add up to -Phi_0, discounted, whatever the agent does and however hints change: the optimal policy stays
as it is. Phi is 0 behind a terminal state, and kept at a time limit.

Source: Ng, Harada and Russell 1999, Policy invariance under reward transformations; with time and history in Phi,
Devlin and Kudenko 2012, Dynamic potential-based reward shaping.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.guidance.earnings.earning import Move
from worker.guidance.hints import Held
from worker.guidance.progress import HowFar
from worker.text_env import State


class Potential:
    """Pays for progress, and takes it back where it is lost.

    Args:
        how_far: Says how far hints have been carried out.
        gamma: The algorithm's own discount.
        num_envs: Environments.
        max_hints: How many that are done make up an episode; None: they are not counted.
    """

    def __init__(self, how_far: HowFar, *, gamma: float, num_envs: int, max_hints: int | None = None) -> None:
        self._how_far, self._gamma, self._max_hints = how_far, gamma, max_hints
        self._potentials = [0.0] * num_envs

    def begin(self, states: Mapping[int, State]) -> None:
        for i, progress in zip(states, self._how_far(list(states.values())), strict=True):
            self._potentials[i] = self._potential(progress, Held())

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        led_to = {i: move.after for i, move in moves.items() if move.after is not None}
        how_far = dict(zip(led_to, self._how_far(list(led_to.values())), strict=True))
        earned = {}
        for i, move in moves.items():
            after = self._potential(how_far[i], move.now) if i in how_far else 0.0
            earned[i] = self._gamma * after - self._potentials[i]
            self._potentials[i] = after
        return earned

    def memory(self, i: int) -> float:
        return self._potentials[i]

    def remember(self, i: int, memory: float) -> None:
        self._potentials[i] = memory

    def _potential(self, progress: float, held: Held) -> float:
        if self._max_hints is None:
            return progress
        reached = len(held.completed) + (progress if held.is_new else 0.0)
        return min(reached, self._max_hints) / self._max_hints
