"""Gymnasium's toy text worlds: grids that show one integer.

| environment       | observation | text                                                                  |
| ----------------- | ----------- | --------------------------------------------------------------------- |
| `FrozenLake-v1`   | `6`         | `at 1 2 goal down 2 right 1 left drop down open right drop up open`   |
| `CliffWalking-v1` | `36`        | `at 3 0 goal down 0 right 11 up open right drop down wall left wall`  |
| `Taxi-v4`         | `328`       | `at 3 1 pick yellow south 1 west 1 then red wall west`                |
| `Taxi-v4`         | `458`       | `at 4 2 carry yellow south 0 west 2 wall south east`                  |

`at` gives row and column, counted from 0 at the top left. The words are ones that prompts and
hints use already, so each is one token of the embedded model: a `drop` is a hole or the cliff,
and the four places of the taxi go by their colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hintwise.describers.describer import Environment
from hintwise.describers.observations import IntegerReader

Cell = tuple[int, int]
"""Row and column."""

STEPS: dict[str, Cell] = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
LAKE_ACTIONS = ("left", "down", "right", "up")
CLIFF_ACTIONS = ("up", "right", "down", "left")
GROUND = {"H": "drop", "G": "goal"}
"""What the letters of a map are called; every other letter is open ground, as in Gymnasium."""

LAKES = {
    "FrozenLake-v1": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "FrozenLake8x8-v1": (
        "SFFFFFFF",
        "FFFFFFFF",
        "FFFHFFFF",
        "FFFFFHFF",
        "FFFHFFFF",
        "FHHFFFHF",
        "FHFFHFHF",
        "FFFHFFFG",
    ),
}
CLIFF = ("F" * 12, "F" * 12, "F" * 12, "S" + "H" * 10 + "G")

TAXI_MAP = ("|R: | : :G|", "| : | : : |", "| : : : : |", "| | : | : |", "|Y| : |B: |")
"""Gymnasium's map without its frame; a cell is every second letter, and `:` between two is open."""
PLACES: dict[str, Cell] = {"red": (0, 0), "green": (0, 4), "yellow": (4, 0), "blue": (4, 3)}
COLOURS = tuple(PLACES)
IN_TAXI = len(PLACES)
NUM_TAXI_STATES = 5 * 5 * (len(PLACES) + 1) * len(PLACES)
PICK_UP, DROP_OFF = 4, 5


class Grid(NamedTuple):
    """A map: one text per row, all of one length."""

    rows: tuple[str, ...]
    goals: tuple[Cell, ...]

    @property
    def num_columns(self) -> int:
        return len(self.rows[0])

    @property
    def num_cells(self) -> int:
        return len(self.rows) * self.num_columns

    def ground(self, row: int, column: int) -> str:
        """Returns what a cell is called: `open`, `drop`, `goal`, or `wall` beyond the edge."""
        if not (0 <= row < len(self.rows) and 0 <= column < self.num_columns):
            return "wall"
        return GROUND.get(self.rows[row][column], "open")


class GridWalk:
    """Where the player stands, where the nearest goal is from there, and what lies on each side.

    Args:
        env_id: Environment that is described.
        actions: The four directions, in the environment's order.
        read_grid: Returns the map as it is now.
    """

    task = "Keep away from a drop and reach the goal."

    def __init__(self, env_id: str, actions: Sequence[str], read_grid: Callable[[], Grid]) -> None:
        self.env_id = env_id
        self.actions = list(actions)
        self._directions = tuple(actions)
        self._read_grid = read_grid
        self._state = IntegerReader(env_id, "state")

    def describe(self, observation: object) -> str:
        return self.recall(observation, ())

    def recall(self, observation: object, past: Sequence[object]) -> str:
        """Returns the text with a number behind each side that was stood on before: how often."""
        grid = self._read_grid()
        row, column = self._cell(observation, grid)
        stood_on = Counter(self._cell(each, grid) for each in past)
        place = f"at {row} {column}" + (" drop" if grid.ground(row, column) == "drop" else "")
        goal = f"goal {_way((row, column), _nearest(grid, row, column))}" if grid.goals else "no goal"
        sides = []
        for name in self._directions:
            side = row + STEPS[name][0], column + STEPS[name][1]
            sides.append(f"{name} {grid.ground(*side)}" + (f" {stood_on[side]}" if stood_on[side] else ""))
        return " ".join([place, goal, *sides])

    def _cell(self, observation: object, grid: Grid) -> Cell:
        return divmod(self._state.read(observation, grid.num_cells), grid.num_columns)

    def legal_actions(self, observation: object) -> list[int]:
        return [0, 1, 2, 3]  # walking into a wall is allowed: on ice it even has its use


class Taxi:
    """Where the taxi is, where it has to go next, and which sides are walls.

    `pick` names the place where the passenger waits, with the way to it, and `then` the destination;
    `carry` is the destination, with the way to it, of the passenger in the taxi. Ways are as the crow flies.
    """

    env_id = "Taxi-v4"
    task = "Drive to pick up, then to drop off."

    def __init__(self) -> None:
        # two tokens each: a longer phrase would begin far less likely than the others
        self.actions = ["move south", "move north", "move east", "move west", "pick up", "drop off"]
        self._state = IntegerReader(self.env_id, "state")

    def describe(self, observation: object) -> str:
        taxi, passenger, destination = self._decode(observation)
        target = destination if passenger == IN_TAXI else passenger
        way = _way(taxi, PLACES[COLOURS[target]], vertical=("south", "north"), horizontal=("east", "west"))
        errand = f"carry {COLOURS[target]} {way}" if passenger == IN_TAXI else f"pick {COLOURS[target]} {way}"
        then = "" if passenger == IN_TAXI else f" then {COLOURS[destination]}"
        return f"at {taxi[0]} {taxi[1]} {errand}{then} {_wall_words(taxi)}"

    def legal_actions(self, observation: object) -> list[int]:
        """Returns the actions that change something, as the environment's own `action_mask` has them."""
        taxi, passenger, _ = self._decode(observation)
        legal = [k for k, is_open in enumerate(open_sides(taxi).values()) if is_open]
        if passenger < IN_TAXI and taxi == PLACES[COLOURS[passenger]]:
            legal.append(PICK_UP)
        if passenger == IN_TAXI and taxi in PLACES.values():
            legal.append(DROP_OFF)
        return legal

    def _decode(self, observation: object) -> tuple[Cell, int, int]:
        """Returns the taxi's cell, the passenger's place and the destination.

        The observation is ((row * 5 + column) * 5 + passenger) * 4 + destination.
        """
        rest, destination = divmod(self._state.read(observation, NUM_TAXI_STATES), len(PLACES))
        cell, passenger = divmod(rest, len(PLACES) + 1)
        return divmod(cell, len(TAXI_MAP)), passenger, destination


def frozen_lake(env_id: str) -> GridWalk:
    """Returns the describer of an environment with its default map."""
    grid = grid_of(LAKES[env_id])
    return GridWalk(env_id, LAKE_ACTIONS, lambda: grid)


def frozen_lake_of(env: Environment) -> GridWalk:
    """Returns the describer of an environment with the map it has, read anew for each observation.

    A wrapper may change the map when it resets; the text is of the map that the environment has now.
    """
    return GridWalk(env.spec.id, LAKE_ACTIONS, lambda: _grid_in(env))


def cliff_walking(env_id: str) -> GridWalk:
    """Returns the describer of CliffWalking, whose map never changes."""
    grid = grid_of(CLIFF)
    return GridWalk(env_id, CLIFF_ACTIONS, lambda: grid)


@lru_cache(256)
def grid_of(rows: tuple[str, ...]) -> Grid:
    """Returns the map that these rows of letters are."""
    goals = [(i, j) for i, row in enumerate(rows) for j, letter in enumerate(row) if letter == "G"]
    return Grid(rows, tuple(goals))


def _grid_in(env: Environment) -> Grid:
    """Returns the map in an environment's `desc`."""
    desc = np.asarray(env.unwrapped.desc, dtype="S1")  # (rows, columns) letters
    return _grid_from(desc.tobytes(), desc.shape[1])


@lru_cache(256)
def _grid_from(letters: bytes, num_columns: int) -> Grid:
    text = letters.decode("latin-1")  # any byte is a letter
    return grid_of(tuple(text[start : start + num_columns] for start in range(0, len(text), num_columns)))


def _nearest(grid: Grid, row: int, column: int) -> Cell:
    """Returns the goal that the fewest moves reach over open ground; the first in reading order on ties."""
    return min(grid.goals, key=lambda goal: abs(goal[0] - row) + abs(goal[1] - column))


def _way(
    start: Cell,
    end: Cell,
    *,
    vertical: tuple[str, str] = ("down", "up"),
    horizontal: tuple[str, str] = ("right", "left"),
) -> str:
    """Returns `down 2 right 1`: always both, so that every text has the same layout."""
    rows, columns = end[0] - start[0], end[1] - start[1]
    return f"{vertical[rows < 0]} {abs(rows)} {horizontal[columns < 0]} {abs(columns)}"


@lru_cache(25)
def open_sides(cell: Cell) -> dict[str, bool]:
    """Returns whether the taxi can leave a cell, by direction in the order of its actions."""
    row, column = cell
    return {
        "south": row < len(TAXI_MAP) - 1,
        "north": row > 0,
        "east": TAXI_MAP[row][2 * column + 2] == ":",
        "west": TAXI_MAP[row][2 * column] == ":",
    }


@lru_cache(25)
def _wall_words(cell: Cell) -> str:
    walls = [name for name, is_open in open_sides(cell).items() if not is_open]
    return " ".join(["wall", *walls]) if walls else "no wall"
