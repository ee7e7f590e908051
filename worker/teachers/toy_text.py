"""Teachers of the toy text worlds, from the words of their descriptions.

| environment    | what the text shows                 | right actions                                          |
| -------------- | ----------------------------------- | ------------------------------------------------------ |
| `FrozenLake`   | the way to the goal, and four sides | a side that is nearer and safe; else any safe side     |
| `CliffWalking` | the same                            | the same, which is a shortest path there               |
| `Taxi`         | the place, the errand, the map      | all first steps of shortest paths, `pick up`, `drop off` |

A lake shows its four sides and no more, so this is the best a reader of the text can do and not
a shortest path of the map: a pocket of holes is seen once one stands in it.
"""

from __future__ import annotations

from collections import deque
from functools import cache

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
        words = self._describer.describe(observation).split()
        if "goal" not in words or words[words.index("goal") - 1] == "no":
            return []
        start = words.index("goal")
        vertical, rows, horizontal, columns = words[start + 1 : start + 5]
        sides = dict(zip(words[start + 5 :: 2], words[start + 6 :: 2], strict=True))
        distance = {vertical: int(rows), horizontal: int(columns)}
        nearer = sorted((side for side in distance if distance[side]), key=lambda side: -distance[side])
        right = [side for side in nearer if sides[side] in SAFE]
        if rows == columns == "0":
            return []
        return right or [side for side, ground in sides.items() if ground in SAFE]

    def hint(self, observation: object) -> str:
        right = self.actions(observation)
        return f"go {right[0]} to reach the goal" if right else ""


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
