"""Shortest ways over the map that a MiniGrid description tells of.

The map is rebuilt from the told view alone: inside the rectangle cells are free, its border is wall but for gaps and
doors, and everything else is unknown, which may be walked but is rather not.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

from hintwise.describers.minigrid_view import REACH_AHEAD, REACH_ASIDE, Cell, Thing, View, border_of

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
HEADINGS: tuple[Cell, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))  # ahead, right, back, left: turning right is + 1
FREE_COST, DOOR_COST, UNKNOWN_COST, BEHIND_COST = 1, 2, 3, 6  # a closed door takes a toggle and a step
LOST_COST = 4
"""Added where the target would leave the view: who remembers nothing then has to look for it again."""
NUM_ROWS_BEHIND = 2
Pose = tuple[Cell, int]
Goal = Callable[[Pose], bool]
START: Pose = ((0, 0), 0)


class ToldMap:
    """What a view tells of the floor.

    Args:
        view: What is seen.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.things: dict[Cell, Thing] = {thing.cell: thing for thing in view.things}
        ahead, left, right = view.walls
        self._inside = {(i, j) for i in range(ahead) for j in range(1 - left, right)} | {(0, 0)}
        self._border = {cell for side in border_of(view.walls) for cell in self._closed(side)}
        self._border |= {(ahead, 0)} if ahead <= REACH_AHEAD else set()

    def _closed(self, side: list[Cell]) -> list[Cell]:
        """Returns the cells of one side up to where a space begins: beyond, nothing is told of them."""
        begins = [number for number, cell in enumerate(side) if self._is(cell, "space")]
        return side[: begins[0]] if begins else side

    def _is(self, cell: Cell, *kinds: str) -> bool:
        return cell in self.things and self.things[cell].kind in kinds

    def step_cost(self, cell: Cell) -> float:
        """Returns the actions that a step onto a cell takes; infinite where it cannot be entered."""
        thing = self.things.get(cell)
        if thing is None:
            if cell in self._border:
                return inf
            return FREE_COST if cell in self._inside else BEHIND_COST if cell[0] < 0 else UNKNOWN_COST
        if thing.kind == "door":
            return FREE_COST if thing.state == "open" else DOOR_COST if self.opens(thing) else inf
        return FREE_COST if thing.kind in ("gap", "space", "goal") else inf

    def opens(self, door: Thing) -> bool:
        """Returns whether a toggle opens a door now: it is closed, or locked and its key is carried."""
        carried = self.view.carried
        has_key = carried is not None and carried.kind == "key" and carried.colour == door.colour
        return door.state == "closed" or (door.state == "locked" and has_key)

    def is_known_free(self, cell: Cell) -> bool:
        """Returns whether nothing stands on a cell for certain, so that something can be put there."""
        thing = self.things.get(cell)
        return cell in self._inside if thing is None else thing.kind in ("gap", "space")

    def doorway_ahead(self) -> int:
        """Returns the steps to a cell straight ahead between two walls inside the rectangle; 0 where there is none."""
        rows = [
            row for row in range(1, self.view.walls[0]) if self._is((row, -1), "wall") and self._is((row, 1), "wall")
        ]
        return min(rows, default=0)

    def first_actions(self, goal: Goal, target: Cell) -> tuple[float, list[int]]:
        """Returns the cost of the cheapest way to a pose, and every first action of such a way.

        Args:
            goal: Whether a pose is the one wanted.
            target: The cell it is about, kept in view on the way.

        Returns:
            Infinity and no action where there is no way; 0 and no action where the pose is had already.
        """
        costs: dict[Pose, float] = {START: 0}
        firsts: dict[Pose, set[int]] = {START: set()}
        queue: list[tuple[float, Pose]] = [(0, START)]
        best, found = inf, set[int]()
        while queue:
            cost, pose = heapq.heappop(queue)
            if cost > best:
                break
            if cost > costs[pose]:
                continue
            if goal(pose):
                best = cost
                found |= firsts[pose]
                continue
            for action, following, more in self._moves(pose):
                total = cost + more + (0 if _shows(following, target) or goal(following) else LOST_COST)
                begun = firsts[pose] or {action}
                if total < costs.get(following, inf):
                    costs[following], firsts[following] = total, set(begun)
                    heapq.heappush(queue, (total, following))
                elif total == costs.get(following):
                    firsts[following] |= begun
        return best, sorted(found, key=lambda action: (action != FORWARD, action))

    def _moves(self, pose: Pose) -> list[tuple[int, Pose, float]]:
        cell, heading = pose
        before = faced(pose)
        turns = [(LEFT, (cell, (heading - 1) % 4), 1.0), (RIGHT, (cell, (heading + 1) % 4), 1.0)]
        cost = self.step_cost(before) if _is_near(before) else inf
        if cost == inf:
            return turns
        thing = self.things.get(before)
        is_shut = thing is not None and thing.kind == "door" and thing.state != "open"
        return [*turns, (TOGGLE if is_shut else FORWARD, (before, heading), cost)]


def faced(pose: Pose) -> Cell:
    """Returns the cell before an agent that stands in this pose."""
    (row, column), heading = pose
    return row + HEADINGS[heading][0], column + HEADINGS[heading][1]


def _shows(pose: Pose, cell: Cell) -> bool:
    """Returns whether a cell lies in the view of an agent that stands in this pose."""
    (row, column), heading = pose
    rows, columns = cell[0] - row, cell[1] - column
    ahead = rows * HEADINGS[heading][0] + columns * HEADINGS[heading][1]
    right = rows * HEADINGS[(heading + 1) % 4][0] + columns * HEADINGS[(heading + 1) % 4][1]
    return 0 <= ahead <= REACH_AHEAD and abs(right) <= REACH_ASIDE


def stand_on(cell: Cell) -> Goal:
    return lambda pose: pose[0] == cell


def face(cell: Cell) -> Goal:
    return lambda pose: faced(pose) == cell


def _is_near(cell: Cell) -> bool:
    """Returns whether a cell is in the view or close to it: ways that lead farther are no ways."""
    return -NUM_ROWS_BEHIND <= cell[0] <= REACH_AHEAD + 1 and abs(cell[1]) <= REACH_ASIDE + 1
