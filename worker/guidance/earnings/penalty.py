"""Takes from disobedience: F_t = min(0, tanh(log pi(a|s,h) - log pi(a|s))), -1 to 0.

It pays nothing, so that no circle earns by obeying. It promises nothing about the optimum: while it lasts, the best
policy is the best of those that obey enough; it is to fall to 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from hintwise.client import Client
from worker.guidance.earnings.earning import Memoryless, Move
from worker.guidance.earnings.obedience import Obedience


class Penalty(Memoryless):
    """Takes from actions that the hint speaks against.

    Args:
        client: Of the service whose scorer is asked.
        task: Of the environments.
    """

    def __init__(self, client: Client, task: str | None) -> None:
        self._obedience = Obedience(client, task)

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        return {i: min(0.0, obeyed) for i, obeyed in self._obedience.of(moves).items()}
