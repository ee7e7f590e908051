"""The hints in force in N environments: asked for together, kept by text, held for some steps.

follow(turn) ──▶ which environments are due? ──▶ kept? ──▶ one request for the rest
"""

from __future__ import annotations

from hintwise.advising.hints import Hint, HintSource
from hintwise.wrappers.episodes import Turn
from hintwise.wrappers.narration import Narration


class Advice:
    """The hint in force in each environment.

    Args:
        source: Where hints come from.
        narration: What the environments show; leads, this follows.
        every: Steps that a hint is held; None: as long as the episode.

    Raises:
        ValueError: `every` is out of range.
    """

    def __init__(self, source: HintSource, narration: Narration, num_envs: int, every: int | None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"every is {every}; it must be 1 or more steps, or None for a hint an episode")
        self._source, self._narration, self._every = source, narration, every
        self._ages = [0] * num_envs
        self.hints: list[Hint] = [None] * num_envs
        self.finals: dict[int, Hint] = {}
        """Of what those showed last that ended in this very step, where the next episode has begun."""

    def follow(self, turn: Turn) -> None:
        """Asks for the hints that are due after a call, all in one request."""
        due: list[tuple[int, bool]] = []  # environment, and whether its episode ended in this very step
        self.finals = {}
        for i in turn.moved:
            self._ages[i] += 1
            is_final = i in turn.finals
            if self.hints[i] is None or (self._every and self._ages[i] % self._every == 0):
                due.append((i, is_final))
            elif is_final:
                self.finals[i] = self.hints[i]
        for i in turn.began:
            self._ages[i] = 0
            due.append((i, False))
        states = [self._narration.finals[i] if is_final else self._narration.states[i] for i, is_final in due]
        for (i, is_final), hint in zip(due, self._source.hints(states), strict=True):
            if is_final:
                self.finals[i] = hint
            else:
                self.hints[i] = hint
