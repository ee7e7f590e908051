"""Teachers of the toy text worlds, from the words of their descriptions.

| environment    | what the text shows                 | right actions                                            |
| -------------- | ----------------------------------- | -------------------------------------------------------- |
| `FrozenLake`   | the way to the goal, and four sides | of the safe sides least stood on, a nearer one, else any |
| `CliffWalking` | the same                            | the same, which is a shortest path there                 |
| `Taxi`         | the place, the errand, the map      | all first steps of shortest paths, `pick up`, `drop off` |

A lake shows its four sides and no more, so this is the best a reader of the text can do and not
a shortest path of the map: a pocket of holes is seen once one stands in it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from functools import cache
from typing import NamedTuple

from hintwise.describers.describer import Describer
from hintwise.describers.toy_text import PLACES, Cell, Taxi, open_sides

SAFE = "open", "goal"
STEP_TO = {"south": (1, 0), "north": (-1, 0), "east": (0, 1), "west": (0, -1)}


class GridWalkTeacher:
    """Walks toward the goal over what is seen to be safe.

    Args:
        describer: Of a grid world, with the map that its environment has.
    """

    def __init__(self, describer: Describer) -> None:
        self._describer = describer

    def actions(self, observation: object) -> list[str]:
        told = _grid_walk(self._describer.describe(observation))
        if told is None or not any(told.distances.values()):
            return []
        safe = [side for side, ground in told.sides.items() if ground in SAFE]
        least = min((told.visits[side] for side in safe), default=0)
        freshest = [side for side in safe if told.visits[side] == least]
        nearer = [side for side in freshest if told.distances.get(side)]
        return sorted(nearer, key=lambda side: -told.distances[side]) or freshest

    def hint(self, observation: object) -> str:
        right = self.actions(observation)
        return f"go {right[0]} to reach the goal" if right else ""


class _GridWalk(NamedTuple):
    """What the text of a grid tells."""

    distances: dict[str, int]  # steps to the goal, by the side it lies to
    sides: dict[str, str]  # ground of each
    visits: Counter[str]  # how often each was stood on before


def _grid_walk(text: str) -> _GridWalk | None:
    """Returns what a text tells; None where there is no goal."""
    found = re.search(r"(?<!no )goal (\w+) (\d+) (\w+) (\d+)(.*)", text)
    if found is None:
        return None
    vertical, rows, horizontal, columns, rest = found.groups()
    sides = re.findall(r"(left|down|right|up) (\w+)(?: (\d+))?", rest)
    return _GridWalk(
        {vertical: int(rows), horizontal: int(columns)},
        {side: ground for side, ground, _ in sides},
        Counter({side: int(visits or 0) for side, _, visits in sides}),
    )


class TaxiTeacher:
    """Drives shortest paths."""

    def __init__(self) -> None:
        self._describer = Taxi()

    def actions(self, observation: object) -> list[str]:
        words = self._describer.describe(observation).split()
        cell, errand, place = (int(words[1]), int(words[2])), words[3], words[4]
        distances = distances_to(PLACES[place])
        if distances[cell] == 0:
            return ["pick up" if errand == "pick" else "drop off"]
        nearer = [
            name
            for name, is_open in open_sides(cell).items()
            if is_open and distances[_beyond(cell, name)] < distances[cell]
        ]
        return [f"move {name}" for name in nearer]

    def hint(self, observation: object) -> str:
        action = self.actions(observation)[0]
        place = self._describer.describe(observation).split()[4]
        return f"{action} at {place}" if action in ("pick up", "drop off") else f"{action} to reach {place}"


@cache
def distances_to(place: Cell) -> dict[Cell, int]:
    """Returns the moves from every cell of the taxi's map to one of them."""
    distances, queue = {place: 0}, deque([place])
    while queue:
        cell = queue.popleft()
        for name, is_open in open_sides(cell).items():
            if is_open and (beyond := _beyond(cell, name)) not in distances:
                distances[beyond] = distances[cell] + 1
                queue.append(beyond)
    return distances


def _beyond(cell: Cell, name: str) -> Cell:
    rows, columns = STEP_TO[name]
    return cell[0] + rows, cell[1] + columns
