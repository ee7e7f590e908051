"""Pays once for each goal: F_t = 1 / max_hints where a hint is done whose goal was not reached before in the episode.

It promises nothing: an agent may take a detour for a goal that it has no use for, as far as the cap of the episode
goes. It cannot be earned twice by undoing what was done. The goal that ends an episode is the environment's to pay.
"""

from __future__ import annotations

from collections.abc import Mapping

from worker.guidance.earnings.earning import Memoryless, Move


class Bonus(Memoryless):
    """Pays for hints that are done, each goal once an episode.

    Args:
        max_hints: How many make up an episode.
    """

    def __init__(self, max_hints: int) -> None:
        self._each = 1 / max_hints

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        return {i: self._each * (len(move.now.completed) - len(move.was.completed)) for i, move in moves.items()}
