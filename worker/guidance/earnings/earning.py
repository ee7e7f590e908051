"""What a form of reward for guidance is told, and asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from worker.guidance.hints import Held
from worker.text_env import State


class Move(NamedTuple):
    """A transition of one environment; each state knows the hint in force there."""

    before: State
    action: str
    after: State | None  # None behind a terminal state
    was: Held = Held()
    now: Held = Held()  # what it was, behind a terminal state


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


class Memoryless:
    """A form that pays for each move by itself, and has nothing to keep from one to the next."""

    def begin(self, states: Mapping[int, State]) -> None:
        return

    def memory(self, i: int) -> float:
        return 0.0

    def remember(self, i: int, memory: float) -> None:
        return
