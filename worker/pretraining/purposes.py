"""How far each hint of a teacher's episode has been carried out, step by step.

    step                    0          1          2          3           4         5
    its hint's purpose      key        key        key        door        door      goal
    steps that remain       key 3      key 2      key 1      door 2      door 1    goal ...
    carried out                                              key         key       key, door

A purpose is what stands behind the action, `to pick up the yellow key`; a hint without one is its own. What comes
back after a few steps was never finished: a turn may lose sight of a thing for a moment. The purpose of the last steps
is finished where the episode ended in success, and unknown elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_INTERRUPTION = 4
"""Steps that a purpose may be gone and still count as the same."""
NUM_REMINDERS = 3
"""Steps behind its end at which a purpose is told of as carried out."""
LINEAR_STEPS, LEAST_LINEAR, DONE = 16, 0.15, 0.97


class Purpose(NamedTuple):
    """How far one hint is at one step."""

    hint: str
    clause: str
    """What the hint says behind its action; empty where it names nothing but the action."""
    remaining: int
    """Teacher's steps until it has been carried out; 0 where it has."""

    @property
    def potential(self) -> float:
        """Returns how far it is, 0 to 1: even steps near the end, since a step far from it can hardly be told."""
        if self.remaining <= LINEAR_STEPS:
            return DONE - (DONE - LEAST_LINEAR) * self.remaining / LINEAR_STEPS
        return LEAST_LINEAR * LINEAR_STEPS / self.remaining


class _Run(NamedTuple):
    """Neighbouring steps with one purpose; `last` is the step behind them."""

    name: str
    first: int
    last: int


def purposes_along(advice: Sequence[tuple[str, str]], *, reached: bool) -> list[list[Purpose]]:
    """Returns what is known at each step.

    Args:
        advice: Hint and clause of each step that the teacher took.
        reached: Whether the episode ended in success.
    """
    known: list[list[Purpose]] = [[] for _ in advice]
    runs = _runs([clause or hint for hint, clause in advice])
    for run in runs if reached else runs[:-1]:
        hint, clause = advice[run.last - 1]
        for step in range(run.first, run.last):
            told = advice[step]
            same = told if (told[1] or told[0]) == run.name else (hint, clause)
            known[step].append(Purpose(*same, run.last - step))
        for step in range(run.last, min(run.last + NUM_REMINDERS, len(advice))):
            known[step].append(Purpose(hint, clause, 0))
    return known


def _runs(names: Sequence[str]) -> list[_Run]:
    """Returns the runs of equal names, those that were interrupted for a moment as one."""
    runs: list[_Run] = []
    step = 0
    while step < len(names):
        last = step + 1
        ahead = last
        while ahead < len(names) and ahead - last <= MAX_INTERRUPTION:
            if names[ahead] == names[step]:
                last = ahead + 1
            ahead += 1
        runs.append(_Run(names[step], step, last))
        step = last
    return runs
