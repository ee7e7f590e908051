"""What MiniGrid's agent sees, from the image of its observation.

    row of the image      6 is the agent's own, 0 the farthest       column      3 is the agent's own
                                                                                 below it left, above it right

           . . . k . W .        the agent, A, looks up the page and sees a key 3 ahead, and a wall
           . . . . . W .        2 to its right. Cells that walls hide are unseen, and stay so.
           . . . A . W .

What is told of the floor is one rectangle of free cells around the agent, bounded by the nearest wall or door in each
direction, and what does not fit into it: walls inside, and gaps in its border.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hintwise.errors import InvalidRequest

VIEW_SIZE = 7
REACH_AHEAD = VIEW_SIZE - 1
REACH_ASIDE = VIEW_SIZE // 2
MAX_OBJECTS = 8
"""Doors, keys, balls, boxes and goals that are told of; a room rarely shows more."""
MAX_CELLS = 3
"""Cells of lava, and of walls inside the rectangle, that are told of, each."""
MAX_GAPS = 4
"""Gaps and spaces that are told of: two on either side."""

KINDS = ("unseen", "empty", "wall", "floor", "door", "key", "ball", "box", "goal", "lava", "agent")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
STATES = ("open", "closed", "locked")
"""The numbers of an image index these, in MiniGrid's own order (`minigrid.core.constants`)."""

UNSEEN, EMPTY, WALL, FLOOR, DOOR, KEY, BALL, BOX, GOAL, LAVA, AGENT = range(len(KINDS))
FREE = (EMPTY, FLOOR)
CARRIED = (KEY, BALL, BOX)
Cell = tuple[int, int]  # steps ahead, steps to the right
Image = NDArray[np.int64]


class Thing(NamedTuple):
    """Something seen, `ahead` steps ahead of the agent and `right` steps to the right (negative: left)."""

    kind: str  # an object's, or "wall", "gap" or "space"
    ahead: int
    right: int
    colour: str = ""  # of doors, keys, balls and boxes
    state: str = ""  # of doors

    @property
    def cell(self) -> Cell:
        return self.ahead, self.right


class View(NamedTuple):
    """All that is told of one observation."""

    mission: str
    carried: Thing | None
    walls: tuple[int, int, int]
    """Steps to the nearest wall or door ahead, to the left and to the right; 7, 4 and 4 where none is in view."""
    things: tuple[Thing, ...]
    """Objects, then lava, walls inside the rectangle, then gaps and spaces in its border, each from near to far."""


def read_view(env_id: str, observation: object) -> View:
    """Returns what an observation shows.

    Args:
        env_id: Environment to name in errors.
        observation: `{"image": (7, 7, 3), "direction": 0 to 3, "mission": text}`.

    Raises:
        InvalidRequest: A part is missing or is no such thing; says which.
    """
    if not isinstance(observation, Mapping):
        raise InvalidRequest(
            f"{env_id} observations are objects with image, direction and mission; "
            f"got a value of type {type(observation).__name__}"
        )
    for part in ("image", "direction", "mission"):
        if part not in observation:
            raise InvalidRequest(f"{env_id} observations have image, direction and mission; {part} is missing")
    mission, direction = observation["mission"], observation["direction"]
    if not isinstance(mission, str):
        raise InvalidRequest(f"mission is of type {type(mission).__name__}; expected a text")
    if isinstance(direction, bool) or not isinstance(direction, int | np.integer) or not 0 <= direction <= 3:
        raise InvalidRequest(f"direction is {direction!r}; expected an integer from 0 to 3")
    image = _read_image(observation["image"])
    return _look(image, " ".join(mission.split()))


def _read_image(value: object) -> Image:
    try:
        image = np.asarray(value)
    except ValueError:  # rows of unequal lengths
        raise InvalidRequest("image is no array of shape (7, 7, 3): its rows differ in length") from None
    if image.shape != (VIEW_SIZE, VIEW_SIZE, 3):
        raise InvalidRequest(f"image has the shape {image.shape}; expected (7, 7, 3), the agent's own view")
    if image.dtype.kind not in "iu":
        raise InvalidRequest("image holds something else than integers")
    for channel, (name, count) in enumerate((("object", len(KINDS)), ("colour", len(COLOURS)), ("state", 3))):
        numbers = image[:, :, channel]
        if numbers.min() < 0 or numbers.max() >= count:
            raise InvalidRequest(f"image holds an unknown {name}; they are numbered from 0 to {count - 1}")
    if (image[:, :, 0] == AGENT).any():
        raise InvalidRequest("image shows the agent itself; expected the agent's own view, not the whole map")
    carried = int(image[_index((0, 0))][0])
    if carried not in (*FREE, *CARRIED):
        raise InvalidRequest(f"image shows {KINDS[carried]} at row 6 of column 3, where the agent stands")
    return image.astype(np.int64)


def _look(image: Image, mission: str) -> View:
    kinds: dict[Cell, int] = {cell: int(image[_index(cell)][0]) for cell in _cells()}
    carried = _thing(image, (0, 0)) if kinds[0, 0] in CARRIED else None
    ahead, left, right = _rectangle(kinds)
    inside = {(i, j) for i in range(ahead) for j in range(1 - left, right)}
    seen = sorted((cell for cell in kinds if cell != (0, 0)), key=_distance)
    objects = [_thing(image, cell) for cell in seen if DOOR <= kinds[cell] <= GOAL]
    lava = [_thing(image, cell) for cell in seen if kinds[cell] == LAVA]
    walls = [Thing("wall", *cell) for cell in seen if kinds[cell] == WALL and cell in inside]
    gaps = sorted(_gaps(kinds, (ahead, left, right)), key=lambda gap: _distance(gap.cell))
    told = (*objects[:MAX_OBJECTS], *lava[:MAX_CELLS], *walls[:MAX_CELLS], *gaps[:MAX_GAPS])
    return View(mission, carried, (ahead, left, right), told)


def _rectangle(kinds: Mapping[Cell, int]) -> tuple[int, int, int]:
    """Returns the steps to what bounds the free rectangle ahead, to the left and to the right.

    A side is as wide as the narrower of the agent's own row and the next: a gap beside the agent
    is told of as a gap, and does not make a corridor look like a room.
    """
    ahead = _steps(kinds, (1, 0), REACH_AHEAD)
    sides = []
    for side in (-1, 1):
        steps = _steps(kinds, (0, side), REACH_ASIDE)
        if ahead > 1:
            next_row = 0 if kinds[1, 0] in (WALL, DOOR) else _steps(kinds, (0, side), REACH_ASIDE, start=(1, 0))
            steps = min(steps, next_row)
        sides.append(steps)
    return ahead, sides[0], sides[1]


def _gaps(kinds: Mapping[Cell, int], walls: tuple[int, int, int]) -> Iterator[Thing]:
    """Yields the free cells in the border of the rectangle, of several in a row the first.

    One alone is a gap, such as a doorway; several are a space, into which the room widens from there on.
    """
    for side in border_of(walls):
        run: list[Cell] = []
        for cell in (*side, None):
            if cell is not None and kinds.get(cell) in FREE:
                run.append(cell)
            elif run:
                yield Thing("gap" if len(run) == 1 else "space", *run[0])
                run = []


def border_of(walls: tuple[int, int, int]) -> list[list[Cell]]:
    """Returns the cells around the rectangle in four sides, each in the direction away from the agent.

    A side that is out of view is empty.
    """
    ahead, left, right = walls
    rows = range(max(ahead, 1) if ahead <= REACH_AHEAD else VIEW_SIZE)
    sides = [[(i, column) for i in rows] for column, steps in ((-left, left), (right, right)) if steps <= REACH_ASIDE]
    if ahead <= REACH_AHEAD:
        sides += [[(ahead, j) for j in range(-1, -left, -1)], [(ahead, j) for j in range(1, right)]]
    return sides


def _steps(kinds: Mapping[Cell, int], step: Cell, reach: int, start: Cell = (0, 0)) -> int:
    """Returns the steps from `start` to the nearest wall or door; one more than `reach` where none is in view.

    What cannot be seen ends the way, too.
    """
    for number in range(1, reach + 1):
        cell = start[0] + number * step[0], start[1] + number * step[1]
        if kinds[cell] in (WALL, DOOR, UNSEEN):
            return number
    return reach + 1


def _thing(image: Image, cell: Cell) -> Thing:
    kind, colour, state = (int(number) for number in image[_index(cell)])
    coloured = kind not in (GOAL, LAVA)
    return Thing(KINDS[kind], *cell, COLOURS[colour] if coloured else "", STATES[state] if kind == DOOR else "")


def _cells() -> Iterator[Cell]:
    return ((i, j) for i in range(VIEW_SIZE) for j in range(-REACH_ASIDE, REACH_ASIDE + 1))


def _index(cell: Cell) -> tuple[int, int]:
    return REACH_ASIDE + cell[1], REACH_AHEAD - cell[0]  # the image's first axis runs across


def _distance(cell: Cell) -> tuple[int, int, int]:
    """Orders cells by steps, then those ahead first, then left before right."""
    return cell[0] + abs(cell[1]), -cell[0], cell[1]
