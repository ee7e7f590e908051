"""What a language model has to reach, and where it falls short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

OF_EVERY_WORLD = {"right": 0.97, "wrong": 0.97, "own": 0.95, "rising": 0.90}
"""At least."""
LARGEST_SPEECHLESS = 0.1
"""Mean |reward| of hints that name no action stays below."""
SPEECHLESS = "empty", "words", "unknown", "foreign", "unseen", "shuffled"
OF_A_WORLD: Mapping[str, Mapping[str, float]] = {
    "CartPole": {"hint": 0.98, "swap": 0.97, "mean_return": 490.0},
    "FrozenLake 8x8": {"hint": 0.95, "obeyed": 0.90},
    "Taxi": {"hint": 0.95},
    "DoorKey-5x5": {"hint": 0.98},
    "DoorKey-6x6": {"hint": 0.98, "obeyed": 0.98},
    "Empty-8x8": {"hint": 0.95},
    "Empty-Random-6x6": {"hint": 0.95},
    "Unlock": {"hint": 0.95},
    "GoToRedBall": {"hint": 0.93},
    "GoToLocal": {"hint": 0.93, "obeyed": 0.90},
    "PickupLoc": {"hint": 0.93},
    "DoorKey-8x8": {"hint": 0.97, "obeyed": 0.95},
    "DoorKey-16x16": {"hint": 0.97},
    "KeyCorridorS3R1": {"hint": 0.80},
    "FourRooms": {"hint": 0.80},
}
"""At least, by world and column."""


def shortfalls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each target that a row misses; what was not measured misses nothing."""
    return [f"{row['world']}: {line}" for row in rows for line in _of_row(row)]


def _of_row(row: Mapping[str, Any]) -> Iterator[str]:
    targets = {**OF_EVERY_WORLD, **OF_A_WORLD.get(row["world"], {})}
    for column, least in targets.items():
        value = row.get(column)
        if value is not None and value < least:
            yield f"{column} {value:.3f}, wanted {least:g} or more"
    for column in SPEECHLESS:
        value = row.get(column)
        if value is not None and value >= LARGEST_SPEECHLESS:
            yield f"{column} {value:.3f}, wanted less than {LARGEST_SPEECHLESS:g}"
