"""The corpus of a seed: states to learn from, others to measure on, and the hints that fit them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from worker.pretraining.hints import Hints
from worker.pretraining.states import State, collect
from worker.pretraining.worlds import World
from worker.seeds import FIRST_VALIDATION_SEED, NUM_TRAINING_SEEDS

SEEDS_A_RUN = 20_000
"""Episodes that a world may play: runs of neighbouring seeds do not play the same ones."""
HELD_OUT_SHARE = 20
"""One held-out state for so many of the corpus."""


class Corpus(NamedTuple):
    """States of all worlds, each with a text of its own."""

    states: list[State]
    held_out: list[State]
    """Of validation seeds, with texts that are not among `states`."""
    hints: Hints
    weights: dict[str, float]

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Tasks of each family's worlds."""
        tasks: dict[str, dict[str, None]] = {}
        for state in self.states:
            tasks.setdefault(state.family, {})[state.task] = None
        return {family: list(few) for family, few in tasks.items()}

    @property
    def counts(self) -> dict[str, int]:
        """States of each world."""
        counts = dict.fromkeys(self.weights, 0)
        for state in self.states:
            counts[state.world] += 1
        return counts


def build_corpus(
    worlds: Sequence[World], *, num_states: int, seed: int, report: Callable[[str], None] = lambda line: None
) -> Corpus:
    """Returns the corpus of one seed.

    Args:
        worlds: Of the corpus.
        num_states: Of a world of weight 1.
        seed: Everything derives from it.
        report: Is told one line a world.
    """
    states: list[State] = []
    held_out: list[State] = []
    for world in worlds:
        generator = random.Random(f"{seed} {world.name}")
        count = round(num_states * world.weight * world.variety)
        first_seed = seed * SEEDS_A_RUN % NUM_TRAINING_SEEDS
        learned = collect(world, count, first_seed=first_seed, generator=generator)
        texts = {state.text for state in learned}
        others = collect(world, max(1, count // HELD_OUT_SHARE), first_seed=FIRST_VALIDATION_SEED, generator=generator)
        states += learned
        held_out += [state for state in others if state.text not in texts]
        report(f"{world.name}: {len(learned)} states")
    return Corpus(states, held_out, Hints.of(states), {world.name: world.weight for world in worlds})
