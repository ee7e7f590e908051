"""A describer that also tells what its episode has shown before.

    describer = Remembering(describer_for(env), reach=40)
    describer.describe(observation)         # the text, with what the last 40 observations had
    describer.see(observation)              # once it is past
    describer.forget()                      # when an episode begins

What is told is the describer's to say, in a method of its own; without one it is the texts of the past:

| describer                    | words                                                                          |
| ---------------------------- | ------------------------------------------------------------------------------ |
| `FrozenLake`, `CliffWalking` | how often a side has been stood on: `left open 2 down drop right open up wall` |
| MiniGrid, BabyAI             | things that are out of view now, latest first: `... before red ball green key` |
| any other                    | the texts before it, latest first: `car 9 speed 20 before car 10 speed 19`     |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from typing import Protocol, runtime_checkable

from hintwise.describers.describer import Describer, hints_of
from hintwise.errors import InvalidRequest

MAX_REACH = 40
"""Observations that can be remembered: counts of them are words up to `40`."""


@runtime_checkable
class RemembersItself(Protocol):
    """A describer that has words of its own for what is past."""

    def recall(self, observation: object, past: Sequence[object]) -> str:
        """Returns one observation as text, with what came before: the same text for the same observations, always.

        Args:
            observation: As the environment gives it.
            past: Of the same episode, the latest last; may be empty.

        Raises:
            InvalidRequest: One is not an observation of this environment.
        """


class Remembering:
    """Describes an observation and, in the same text, those before it.

    Args:
        describer: Of the environment.
        reach: Observations that are remembered, 1 to 40.

    Raises:
        InvalidRequest: `reach` is out of range.
    """

    def __init__(self, describer: Describer, reach: int) -> None:
        if not 1 <= reach <= MAX_REACH:
            raise InvalidRequest(f"a memory of {reach} observations: expected 1 to {MAX_REACH}")
        self._describer = describer
        self._past: deque[object] = deque(maxlen=reach)
        self.env_id, self.task, self.actions = describer.env_id, describer.task, describer.actions
        self.hints = hints_of(describer)

    def describe(self, observation: object) -> str:
        past = tuple(self._past)
        if isinstance(self._describer, RemembersItself):
            return self._describer.recall(observation, past)
        texts = [self._describer.describe(each) for each in (observation, *reversed(past))]
        return " before ".join(texts)

    def legal_actions(self, observation: object) -> list[int]:
        return self._describer.legal_actions(observation)

    def see(self, observation: object) -> None:
        """Remembers an observation that is past, and forgets the one that is farthest back where there are too many."""
        self._past.append(deepcopy(observation))  # an environment may write its next one into the same array

    def forget(self) -> None:
        """Forgets all: an episode begins."""
        self._past.clear()


def remembering(describer: Describer, reach: int) -> Describer:
    """Returns the describer with a memory of `reach` observations; itself where that is 0."""
    return Remembering(describer, reach) if reach else describer
