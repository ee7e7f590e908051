"""How far a hint speaks for the actions taken, by the service's `alignment` scorer."""

from __future__ import annotations

from collections.abc import Mapping

from hintwise.advising.scores import Scores
from hintwise.client import Client
from hintwise.schemas import RewardItem
from worker.guidance.earnings.earning import Move
from worker.guidance.progress import asker_of
from worker.text_env import State


class Obedience:
    """Asks the service, once for the same action by the same hint in the same state.

    Args:
        client: Of the service.
        task: Of the environments.
    """

    def __init__(self, client: Client, task: str | None) -> None:
        self._task = task
        self._scores: Scores[tuple[State, str]] = Scores(asker_of(client), "alignment")

    def of(self, moves: Mapping[int, Move]) -> dict[int, float]:
        """Returns tanh(log pi(a|s,h) - log pi(a|s)) of each move, -1 to 1; 0 where there was no hint."""
        asked = {i: (move.before, move.action) for i, move in moves.items() if move.before.advice}
        answers = self._scores.of({question: self._item(*question) for question in asked.values()})
        found = dict.fromkeys(moves, 0.0)
        for i, question in asked.items():
            answer = answers[question]
            found[i] = answer.reward if answer else 0.0
        return found

    def _item(self, state: State, action: str) -> RewardItem:
        return RewardItem(
            hint=state.advice, observation=state.text, actions=list(state.actions), action=action, task=self._task
        )
