"""How far hints have been carried out, by the service's `progress` scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from hintwise.advising.asking import Asker
from hintwise.advising.scores import Scores
from hintwise.client import Client
from hintwise.schemas import RewardItem
from worker.text_env import State

HowFar: TypeAlias = Callable[[Sequence[State]], Sequence[float]]
"""Says how far the hint of each state has been carried out there, 0 to 1."""


def asker_of(client: Client) -> Asker:
    """Returns what asks by `client`, whose own limits hold; what it cannot get ends the run."""
    return Asker(client, timeout_s=0.0, on_failure="raise", instead="")


class Progress:
    """Asks the service, once for the same hint in the same state.

    Args:
        client: Of the service.
        task: Of the environments.
    """

    def __init__(self, client: Client, task: str | None) -> None:
        self._task = task
        self._scores: Scores[tuple[str, str]] = Scores(asker_of(client), "progress")

    def of(self, states: Sequence[State]) -> list[float]:
        """Returns how far each state's hint has been carried out, 0 to 1; 0 where there is none to carry out."""
        items = {(state.text, state.advice): self._item(state) for state in states if state.advice}
        answers = self._scores.of(items)
        found = [answers.get((state.text, state.advice)) if state.advice else None for state in states]
        return [answer.potential or 0.0 if answer else 0.0 for answer in found]

    def _item(self, state: State) -> RewardItem:
        # As if it ended: the scorer then needs no next state, and one prompt is read instead of two.
        return RewardItem(hint=state.advice, observation=state.text, terminated=True, task=self._task)
