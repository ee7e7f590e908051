"""Pays for obedience and takes from disobedience: F_t = tanh(log pi(a|s,h) - log pi(a|s)), -1 to 1.

Explicit shaping that is annealed to nothing. While its weight is above 0 it promises nothing: a circle of obedient
steps earns, up to the cap of the episode. Once the weight is 0, what is optimal is what was without it.

It takes from policy-invariant explicit shaping (PIES) that advice is explicit and its weight falls to 0. It differs:
PIES learns what advice is worth, Phi, apart from the environment's values, and chooses actions by Q - xi * Phi with
Phi learned from the negated advice, so that Q never holds any advice. Ours adds the advice to the reward: the critic
of shaping learns it, or the one action value of DQN and SARSA, which has to forget it when the weight has fallen.

Source: Behboudian, Satsangi, Taylor, Harutyunyan and Bowling 2020, Useful policy invariant shaping from arbitrary
advice (arXiv 2011.01297); 2022, Policy invariant explicit shaping: an efficient alternative to reward shaping.
"""

from __future__ import annotations

from collections.abc import Mapping

from hintwise.client import Client
from worker.guidance.earnings.earning import Memoryless, Move
from worker.guidance.earnings.obedience import Obedience


class Advice(Memoryless):
    """Pays for actions that the hint speaks for, and takes from those that it speaks against.

    Args:
        client: Of the service whose scorer is asked.
        task: Of the environments.
    """

    def __init__(self, client: Client, task: str | None) -> None:
        self._obedience = Obedience(client, task)

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        return self._obedience.of(moves)
