"""The hint in force in each of N environments: asked for together, held for some steps or until it is done.

    step ──▶ done, or held for long enough? ──▶ no: it stays
                          │
                          └─ yes: its goal counts, once an episode ──▶ the next is asked for

A hint's goal is what stands behind its action, `to pick up the yellow key`: how far it is depends on that alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from hintwise.advising.hints import AskedHints, HintSource
from hintwise.advising.hints import State as Told
from hintwise.client import Client
from worker.guidance.progress import HowFar, asker_of
from worker.guidance.settings import UNTIL_DONE, HintEvery
from worker.guidance.wrong_hints import wrong_hint
from worker.hint_words import goal_of
from worker.text_env import State

DONE = 0.95
"""Progress at which a hint is done: between what the embedded scorer learned to say of one that is, 0.97, and of one
that is a step away, 0.92. Along 20 episodes of its teacher in DoorKey-8x8, which it never saw, it said as much in 87%
of the 180 states behind the end of a goal, in 39% of the 80 a step before it, and in none three or more before."""
MAX_HELD_STEPS = 32
"""Steps after which another is asked for all the same: some can never be done, and a scorer may miss that one is. A
room of 8x8 takes ten steps to cross and a few turns; this is about twice as much."""


def service_hints(client: Client, task: str | None) -> HintSource:
    """Returns the hints of the service's guidance model: the likeliest, the same for the same state, asked for once."""
    return AskedHints(asker_of(client), task, None)


class Held(NamedTuple):
    """What an environment goes by."""

    hint: str = ""
    goal: str = ""
    age: int = 0  # steps of the episode
    held: int = 0  # steps since the hint was asked for
    completed: tuple[str, ...] = ()  # goals of the episode's hints that were done, each once

    @property
    def is_new(self) -> bool:
        """Whether the goal is yet to be completed in this episode."""
        return self.goal not in self.completed


class Hints:
    """Which hint each environment goes by.

    Args:
        source: Where hints come from.
        num_envs: Environments.
        every: Steps that a hint is held; 0: as long as the episode; `done`: until it is done.
        how_far: Says how far hints have been carried out; needed where they are held until they are done.

    Raises:
        ValueError: It is needed and missing.
    """

    def __init__(self, source: HintSource, num_envs: int, every: HintEvery, how_far: HowFar | None = None) -> None:
        if every == UNTIL_DONE and how_far is None:
            raise ValueError("nobody says when a hint is done")
        self._source, self._every, self._how_far = source, every, how_far
        self.now = [Held()] * num_envs
        self.wrong = [False] * num_envs
        """In which environments hints that are asked for are made wrong."""

    @property
    def in_force(self) -> list[str]:
        """The hint of each environment, empty where there is none."""
        return [held.hint for held in self.now]

    def follow(self, states: Mapping[int, State], began: Collection[int]) -> None:
        """Notes a step, and asks for the hints that are due, all in one request.

        Args:
            states: What each environment shows that moved or began.
            began: Those whose state is the first of an episode.
        """
        for i, held in self._after(states, began).items():
            self.now[i] = held

    def behind(self, finals: Mapping[int, State]) -> dict[int, Held]:
        """Returns what is in force in a state behind the last step of an episode; to be asked before `follow`."""
        return self._after(finals, began=())

    def of(self, states: Sequence[State]) -> list[str]:
        """Returns a hint for each state, empty where there is none to give."""
        if not states:
            return []
        return [hint or "" for hint in self._source.hints([Told(state.text, state.actions) for state in states])]

    def _after(self, states: Mapping[int, State], began: Collection[int]) -> dict[int, Held]:
        """Returns what each environment goes by in the state that it came to."""
        then = {i: Held() if i in began else _older(self.now[i]) for i in states}
        done = self._done({i: states[i]._replace(advice=then[i].hint) for i in states if i not in began})
        for i in done:
            then[i] = _completed(then[i])
        due = [i for i in states if i in began or i in done or self._is_due(then[i])]
        for i, hint in zip(due, self.of([states[i] for i in due]), strict=True):
            if self.wrong[i]:
                hint = wrong_hint(hint, states[i].text, states[i].actions)
            then[i] = then[i]._replace(hint=hint, goal=goal_of(hint, states[i].actions), held=0)
        return then

    def _done(self, states: Mapping[int, State]) -> list[int]:
        """Returns where the hint that each state has is done."""
        if self._every != UNTIL_DONE or self._how_far is None or not states:
            return []
        return [i for i, far in zip(states, self._how_far(list(states.values())), strict=True) if far >= DONE]

    def _is_due(self, held: Held) -> bool:
        if isinstance(self._every, str):  # until done
            return held.held >= MAX_HELD_STEPS or not held.hint
        return bool(self._every) and held.age % self._every == 0


def _older(held: Held) -> Held:
    return held._replace(age=held.age + 1, held=held.held + 1)


def _completed(held: Held) -> Held:
    return held._replace(completed=(*held.completed, held.goal)) if held.is_new else held
