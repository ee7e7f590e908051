"""A planner for MiniGrid and BabyAI that knows what the description tells, and remembers nothing.

1. what the mission wants is in view        go there, and pick up, toggle or stop before it
2. a locked door stands in the way          fetch its key, open it
3. a closed door is in view                 open it: what is wanted may be behind
4. nothing of these                         walk ahead; before a wall take a passage in view, else turn along it
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from hintwise.describers.minigrid import ACTIONS, MiniGrid
from hintwise.describers.minigrid_view import Cell, Thing, View
from worker.teachers.minigrid_map import DONE, DROP, FORWARD, LEFT, PICK_UP, RIGHT, TOGGLE, ToldMap, face, stand_on
from worker.teachers.minigrid_missions import REACH, Errand, parse_mission

KEY_WORLDS = ("DoorKey", "KeyCorridor", "Unlock", "ObstructedMaze", "LockedRoom", "KeyInBox")
"""Levels in which a key is worth having before its door has been seen."""


class Advice(NamedTuple):
    """Right actions, the preferred one first, and what they are for."""

    actions: list[int]
    purpose: str


class MiniGridTeacher:
    """Teaches one level.

    Args:
        env_id: One of MiniGrid's or BabyAI's.
    """

    def __init__(self, env_id: str) -> None:
        self._describer = MiniGrid(env_id)
        self._takes_keys = any(name in env_id for name in KEY_WORLDS)

    def actions(self, observation: object) -> list[str]:
        advice = self._advice(observation)
        return [ACTIONS[action] for action in advice.actions] if advice else []

    def hint(self, observation: object) -> str:
        advice = self._advice(observation)
        return f"{ACTIONS[advice.actions[0]]} to {advice.purpose}" if advice else ""

    def _advice(self, observation: object) -> Advice | None:
        view = self._describer.view(observation)
        errand = parse_mission(view.mission)
        return advise(view, errand, takes_keys=self._takes_keys) if errand else None


def advise(view: View, errand: Errand, *, takes_keys: bool) -> Advice:
    """Returns what to do next.

    Args:
        view: What is told of the observation.
        errand: What the mission asks for.
        takes_keys: Whether a key is worth having before its door has been seen.
    """
    told = ToldMap(view)
    return (
        _nearest([way for thing in view.things if errand.wants(thing) for way in _errand_ways(told, errand, thing)])
        or _nearest(_doors(told, "locked"))
        or _put_away(told, errand)
        or _nearest(_keys(told, takes_keys=takes_keys))
        or _nearest(_doors(told, "closed"))
        or _look_around(told)
    )


Way = tuple[float, Advice]


def _nearest(ways: Iterable[Way]) -> Advice | None:
    """Returns the advice of the cheapest way, with the actions of all that cost the same."""
    found = sorted((way for way in ways if way[0] < inf), key=lambda way: way[0])
    if not found:
        return None
    cheapest = [advice for cost, advice in found if cost == found[0][0]]
    actions = list(dict.fromkeys(action for advice in cheapest for action in advice.actions))
    return Advice(actions, cheapest[0].purpose)


def _errand_ways(told: ToldMap, errand: Errand, thing: Thing) -> list[Way]:
    if errand.verb == REACH:
        cost, actions = told.first_actions(stand_on(thing.cell), thing.cell)
        return [(cost, Advice(actions, "reach the goal"))]
    if errand.verb == "go to":
        return [_way(told, thing, DONE, f"stand before the {_name(thing)}")]
    if errand.verb == "pick up":
        return _pick_up(told, thing)
    if thing.state == "open":  # only a toggle counts as opening, so it is closed and opened again
        cost, advice = _way(told, thing, TOGGLE, f"close the {_name(thing)}")
        return [(cost + 100, advice)]
    return [_way(told, thing, TOGGLE, f"open the {_name(thing)}")] if told.opens(thing) else []


def _pick_up(told: ToldMap, thing: Thing) -> list[Way]:
    """Returns the way to pick up a thing; hands that hold another are emptied beside it first."""
    if thing.kind == "door":
        return []
    way = _way(told, thing, PICK_UP, f"pick up the {_name(thing)}")
    carried = told.view.carried
    if carried is None:
        return [way]
    purpose = f"put down the {_name(carried)}"
    if abs(thing.ahead) + abs(thing.right) == 1:
        if thing.cell != (1, 0) and told.is_known_free((1, 0)):
            return [(0.0, Advice([DROP], purpose))]
        if thing.cell == (1, 0):
            sides = [turn for turn, cell in ((LEFT, (0, -1)), (RIGHT, (0, 1))) if told.is_known_free(cell)]
            return [(0.0, Advice(sides or [LEFT, RIGHT], purpose))]
        other_side = LEFT if thing.right > 0 else RIGHT
        if told.is_known_free((0, -thing.right)):
            return [(0.0, Advice([other_side], purpose))]
    return [(way[0], Advice(way[1].actions, f"reach the {_name(thing)}"))]


def _doors(told: ToldMap, state: str) -> list[Way]:
    """Returns the ways to doors of a state that a toggle opens."""
    doors = [thing for thing in told.view.things if thing.state == state and told.opens(thing)]
    return [_way(told, door, TOGGLE, f"open the {_name(door)}") for door in doors]


def _keys(told: ToldMap, *, takes_keys: bool) -> list[Way]:
    """Returns the ways to keys of locked doors in view, or to any key, where hands are empty."""
    if told.view.carried is not None:
        return []
    locked = {thing.colour for thing in told.view.things if thing.state == "locked"}
    keys = [thing for thing in told.view.things if thing.kind == "key" and (takes_keys or thing.colour in locked)]
    keys = [key for key in keys if key.cell != (1, 0) or not _has_open_door_behind(told, key.cell)]  # put away
    return [_way(told, key, PICK_UP, f"pick up the {_name(key)}") for key in keys]


def _put_away(told: ToldMap, errand: Errand) -> Advice | None:
    """Returns the advice to put down a key that has done its work, so that hands are free for what is wanted.

    It has where a passage one cell wide leads to an open door, and no locked one is in view.
    """
    carried = told.view.carried
    is_spent = (
        errand.verb == "pick up"
        and carried is not None
        and carried.kind == "key"
        and told.view.walls[1:] == (1, 1)
        and told.is_known_free((1, 0))
        and _has_open_door_behind(told, (1, 0))
    )
    return Advice([DROP], f"put down the {_name(carried)}") if is_spent and carried else None


def _has_open_door_behind(told: ToldMap, cell: Cell) -> bool:
    """Returns whether an open door stands straight behind a cell, and no locked one is in view."""
    doors = [thing for thing in told.view.things if thing.kind == "door"]
    behind = any(door.state == "open" and door.right == cell[1] and door.ahead > cell[0] for door in doors)
    return behind and not any(door.state == "locked" for door in doors)


def _way(told: ToldMap, thing: Thing, action: int, purpose: str) -> Way:
    """Returns the way to face a thing and take an action there."""
    cost, actions = told.first_actions(face(thing.cell), thing.cell)
    return cost, Advice(actions or [action], purpose)


def _look_around(told: ToldMap) -> Advice:
    """Returns the advice to see more: through a gap, else ahead, else through an open door, else along the wall."""
    doorway = told.doorway_ahead()
    straight = [(float(doorway), Advice([FORWARD], "go through the gap"))] if doorway and _is_clear(told) else []
    is_narrow = told.view.walls[1:] == (1, 1)  # before or in a doorway, whose own sides look like gaps
    gaps = [thing for thing in told.view.things if thing.kind == "gap" and not is_narrow]
    through_gap = _nearest([*straight, *_passages(told, gaps)])
    if through_gap:
        return through_gap
    _, left, right = told.view.walls
    if _is_clear(told):
        return Advice([FORWARD], "look around")
    turns = [LEFT] if left > right else [RIGHT] if right > left else [RIGHT, LEFT]
    open_things = [thing for thing in told.view.things if thing.kind == "space" or thing.state == "open"]
    return _nearest(_passages(told, open_things)) or Advice(turns, "look around")


def _passages(told: ToldMap, things: Iterable[Thing]) -> list[Way]:
    """Returns the ways to stand in a passage."""
    ways = []
    for thing in things:
        cost, actions = told.first_actions(stand_on(thing.cell), thing.cell)
        ways.append((cost, Advice(actions, f"go through the {_name(thing)}")))
    return ways


def _is_clear(told: ToldMap) -> bool:
    """Returns whether the next step ahead can be taken."""
    before = told.things.get((1, 0))
    if before is not None and before.kind == "door":
        return before.state == "open"
    return told.view.walls[0] > 1 and told.step_cost((1, 0)) < inf


def _name(thing: Thing) -> str:
    return f"{thing.colour} {thing.kind}".strip()
