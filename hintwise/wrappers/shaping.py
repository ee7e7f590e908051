"""Language as reward for N environments, in two forms.

    potential   F_t = gamma * Phi_t+1 - Phi_t      Phi_t: how far the hint has been carried out at step t, 0 to 1
    alignment   F_t = tanh(log pi(a|s,h) - log pi(a|s))

Phi_t is asked for once for each time step, with the hint that is in force then, and the number is kept for the step
after. So the F of an episode add up to -Phi_0, discounted, whatever the agent does and however hints change: the
optimal policy stays as it is (Ng, Harada & Russell 1999; with time in Phi, Devlin & Kudenko 2012). Phi is 0 after a
terminal state, and kept at a truncation. Where the service could not be asked, Phi is what it was the step before.
Alignment promises none of this: it pays for obedience at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from hintwise.advising.asking import Asker
from hintwise.advising.hints import Hint, State
from hintwise.advising.scores import Scores
from hintwise.schemas import RewardItem
from hintwise.wrappers.episodes import Turn


class Moment(NamedTuple):
    """One environment at one time step."""

    state: State
    hint: Hint


class Change(NamedTuple):
    """What one call did, in words."""

    turn: Turn
    before: Sequence[Moment]
    """Each of N environments before the call."""
    after: Mapping[int, Moment]
    """What the transition of each that moved led to."""
    first: Mapping[int, Moment]
    """How the episode of each that began begins."""
    actions: Sequence[int]
    """Number of the action that each was given."""


class Paid(NamedTuple):
    """What a transition earns for following advice."""

    reward: float
    is_known: bool = True
    """Whether the service could be asked."""


class Shaping(Protocol):
    """A reward for N environments."""

    def follow(self, change: Change) -> dict[int, Paid]:
        """Returns what each environment earned that moved."""


class Potential:
    """The `progress` scorer as a potential.

    Args:
        asker: Asks the service.
        task: Of the environments.
        gamma: The trainer's own discount.
        num_envs: Environments that are shaped.
    """

    def __init__(self, asker: Asker, task: str | None, *, gamma: float, num_envs: int) -> None:
        self._task, self._gamma = task, gamma
        self._potentials = [0.0] * num_envs
        self._scores: Scores[tuple[str, str]] = Scores(asker, "progress")

    def follow(self, change: Change) -> dict[int, Paid]:
        led_to = {i: moment for i, moment in change.after.items() if i not in change.turn.terminated}
        potentials = self._ask([*led_to.values(), *change.first.values()])
        paid = {}
        for i in change.turn.moved:
            known = potentials[led_to[i]] if i in led_to else 0.0
            potential = self._potentials[i] if known is None else known
            paid[i] = Paid(self._gamma * potential - self._potentials[i], known is not None)
            self._potentials[i] = potential
        for i, moment in change.first.items():
            self._potentials[i] = potentials[moment] or 0.0
        return paid

    def _ask(self, moments: Sequence[Moment]) -> dict[Moment, float | None]:
        """Returns each potential: 0 where there is no hint to carry out, None where nobody could be asked."""
        asked = {(moment.state.text, moment.hint): moment.hint for moment in moments if moment.hint}
        items = {(text, hint): self._item(text, hint) for (text, _), hint in asked.items()}
        answers = self._scores.of(items)
        potentials: dict[Moment, float | None] = {}
        for moment in moments:
            if moment.hint:
                answer = answers[moment.state.text, moment.hint]
                potentials[moment] = answer.potential if answer else None
            else:
                potentials[moment] = None if moment.hint is None else 0.0
        return potentials

    def _item(self, text: str, hint: str) -> RewardItem:
        # As if it ended: the scorer then needs no next state, and one prompt is read instead of two.
        return RewardItem(hint=hint, observation=text, terminated=True, task=self._task)


class Alignment:
    """The `alignment` scorer as a bonus.

    Args:
        asker: Asks the service.
        task: Of the environments.
        action_phrases: Of all actions.

    Raises:
        ValueError: Nobody knows what the actions are called.
    """

    def __init__(self, asker: Asker, task: str | None, *, action_phrases: Sequence[str]) -> None:
        if not action_phrases:
            raise ValueError("alignment needs names for the actions: pass describer=")
        self._task, self._phrases = task, tuple(action_phrases)
        self._scores: Scores[tuple[Moment, str]] = Scores(asker, "alignment")

    def follow(self, change: Change) -> dict[int, Paid]:
        before, moved = change.before, change.turn.moved
        asked = {i: (before[i], self._phrases[change.actions[i]]) for i in moved if before[i].hint}
        answers = self._scores.of({question: self._item(*question) for question in asked.values()})
        paid = {i: Paid(0.0, before[i].hint is not None) for i in moved}
        for i, question in asked.items():
            answer = answers[question]
            paid[i] = Paid(answer.reward) if answer else Paid(0.0, is_known=False)
        return paid

    def _item(self, moment: Moment, action: str) -> RewardItem:
        legal = moment.state.actions
        actions = legal if action in legal else self._phrases  # a trainer without a mask takes any
        return RewardItem(
            hint=moment.hint, observation=moment.state.text, actions=list(actions), action=action, task=self._task
        )
