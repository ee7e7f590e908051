"""Which environments go without their hint: an agent that always had one would need it for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from hintwise.wrappers.episodes import Turn

DropoutPer: TypeAlias = Literal["episode", "step"]
STREAM = 0x68696E74
"""Beside the seed, so that the environment's own generator, made of the same seed, draws other numbers."""

Seeds: TypeAlias = int | Sequence[int | None] | None
"""Of a reset; a vector environment takes a list, too."""


class Dropout:
    """Draws who goes without.

    Args:
        probability: 0 to 1.
        per: What it is drawn for.
        num_envs: Environments.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, probability: float, per: DropoutPer, num_envs: int) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"dropout is {probability}; it must be a probability, 0 to 1")
        if per not in ("episode", "step"):
            raise ValueError(f'dropout_per is {per!r}; choose "episode" or "step"')
        self._probability, self._per = probability, per
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self.dropped = [False] * num_envs
        self.finals: dict[int, bool] = {}
        """Of what those showed last that ended in this very step, where the next episode has begun."""

    def seed(self, seeds: Seeds) -> None:
        """Begins the draws anew; environment i of one number has number + i, as Gymnasium seeds it."""
        each = [seeds + i for i in range(len(self.dropped))] if isinstance(seeds, int) else (seeds or ())
        for i, seed in enumerate(each):
            if seed is not None:
                self._generators[i] = np.random.default_rng([seed, STREAM])

    def follow(self, turn: Turn) -> None:
        """Draws for a call."""
        self.finals = {}
        for i in turn.moved:
            dropped = self._draw(i) if self._per == "step" else self.dropped[i]
            if i in turn.finals:
                self.finals[i] = dropped
            else:
                self.dropped[i] = dropped
        for i in turn.began:
            self.dropped[i] = self._draw(i)

    def _draw(self, i: int) -> bool:
        return bool(self._generators[i].random() < self._probability)
