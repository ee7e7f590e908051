"""What following hints earns, beside the environment's own reward.

    penalty     F_t = min(0, tanh(log pi(a|s,h) - log pi(a|s)))       the `alignment` scorer; -1 to 0
    potential   F_t = gamma * Phi_t+1 - Phi_t                         Phi: the `progress` scorer's, 0 to 1

The penalty takes from disobedience and pays nothing, so that no circle earns by obeying. It promises nothing about
the optimum: while it lasts, the best policy is the best of those that obey enough; it is to fall to 0.

Phi is asked for once for each time step, with the hint that is in force then, and kept for the step after, so that the
F of an episode add up to -Phi_0, discounted, whatever the agent does and however hints change: the optimal policy stays
as it is. Phi is 0 behind a terminal state, and kept at a time limit.

Source: Ng, Harada and Russell 1999, Policy invariance under reward transformations; with time in Phi, Devlin and
Kudenko 2012, Dynamic potential-based reward shaping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from hintwise.advising.scores import Scores
from hintwise.client import Client
from hintwise.schemas import RewardItem
from worker.guidance.hints import asker_of
from worker.guidance.settings import RewardForm
from worker.text_env import State


class Move(NamedTuple):
    """A transition of one environment; each state knows the hint in force there."""

    before: State
    action: str
    after: State | None  # None behind a terminal state


class Earnings(Protocol):
    """Reward for following hints, in N environments."""

    def begin(self, states: Mapping[int, State]) -> None:
        """Notes the first states of episodes."""

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        """Returns what each move earned."""

    def memory(self, i: int) -> float:
        """Returns what is remembered of environment `i`."""

    def remember(self, i: int, memory: float) -> None:
        """Takes back what `memory` returned."""


class Penalty:
    """Takes from actions that the hint speaks against.

    Args:
        client: Of the service whose scorer is asked.
        task: Of the environments.
    """

    def __init__(self, client: Client, task: str | None) -> None:
        self._task = task
        self._scores: Scores[tuple[State, str]] = Scores(asker_of(client), "alignment")

    def begin(self, states: Mapping[int, State]) -> None:
        return

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        asked = {i: (move.before, move.action) for i, move in moves.items() if move.before.advice}
        answers = self._scores.of({question: self._item(*question) for question in asked.values()})
        earned = dict.fromkeys(moves, 0.0)
        for i, question in asked.items():
            answer = answers[question]
            earned[i] = min(0.0, answer.reward) if answer else 0.0
        return earned

    def memory(self, i: int) -> float:
        return 0.0

    def remember(self, i: int, memory: float) -> None:
        return

    def _item(self, state: State, action: str) -> RewardItem:
        return RewardItem(
            hint=state.advice, observation=state.text, actions=list(state.actions), action=action, task=self._task
        )


class Potential:
    """Pays for progress, and takes it back where it is lost.

    Args:
        client: Of the service whose scorer is asked.
        task: Of the environments.
        gamma: The algorithm's own discount.
        num_envs: Environments.
    """

    def __init__(self, client: Client, task: str | None, *, gamma: float, num_envs: int) -> None:
        self._task, self._gamma = task, gamma
        self._potentials = [0.0] * num_envs
        self._scores: Scores[tuple[str, str]] = Scores(asker_of(client), "progress")

    def begin(self, states: Mapping[int, State]) -> None:
        for i, potential in zip(states, self._of(list(states.values())), strict=True):
            self._potentials[i] = potential

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        led_to = {i: move.after for i, move in moves.items() if move.after is not None}
        potentials = dict(zip(led_to, self._of(list(led_to.values())), strict=True))
        earned = {}
        for i in moves:
            after = potentials.get(i, 0.0)
            earned[i] = self._gamma * after - self._potentials[i]
            self._potentials[i] = after
        return earned

    def memory(self, i: int) -> float:
        return self._potentials[i]

    def remember(self, i: int, memory: float) -> None:
        self._potentials[i] = memory

    def _of(self, states: Sequence[State]) -> list[float]:
        """Returns the potential of each state: 0 where there is no hint to carry out."""
        items = {(state.text, state.advice): self._item(state) for state in states if state.advice}
        answers = self._scores.of(items)
        found = [answers.get((state.text, state.advice)) if state.advice else None for state in states]
        return [answer.potential or 0.0 if answer else 0.0 for answer in found]

    def _item(self, state: State) -> RewardItem:
        # As if it ended: the scorer then needs no next state, and one prompt is read instead of two.
        return RewardItem(hint=state.advice, observation=state.text, terminated=True, task=self._task)


def earnings(form: RewardForm, client: Client, task: str | None, *, gamma: float, num_envs: int) -> Earnings:
    """Returns what pays in a form."""
    if form == "penalty":
        return Penalty(client, task)
    return Potential(client, task, gamma=gamma, num_envs=num_envs)
