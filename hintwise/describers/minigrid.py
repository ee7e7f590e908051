"""MiniGrid and BabyAI: what the agent sees of its world, in words.

| part                                  | words                                                              |
| ------------------------------------- | ------------------------------------------------------------------ |
| a mission that varies                 | `mission go to the red ball`                                       |
| what is carried                       | `carry nothing`, `carry yellow key`                                |
| the nearest wall or door              | `wall ahead 3 left 1 right 4`: right 4, ahead 7 are out of view    |
| each object, from near to far         | `locked yellow door ahead 2 left 1`, `goal ahead 3`, `lava left 1` |
| a wall inside these bounds            | `wall ahead 2 left 1`                                              |
| a passage one cell wide in a bound    | `gap ahead 3 right 1`                                              |
| where it widens beyond a bound        | `space ahead 2 left 1`                                             |

Places are steps from the agent: `key ahead 1` is directly before it, `key left 1` beside it.
What walls hide is not told; nor is the compass, since nothing of what is told depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hintwise.describers.minigrid_view import Thing, View, read_view

LEVELS_PATH = Path(__file__).with_name("minigrid_levels.json")
"""Every level `minigrid` registers, with its mission where that is constant; written by `worker.minigrid_levels`."""

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")
NUM_MOVES = 3
"""Actions of the levels with moving obstacles, which know nothing but moves."""
VARYING_TASK = "do what the mission says"
NO_MISSION = "look around"
KEPT_KINDS = frozenset({"door", "key", "ball", "box", "goal"})
"""What is worth remembering."""
MAX_REMEMBERED = 4
"""Things out of view that are told of."""


class MiniGrid:
    """The agent's own view of 7 by 7 cells, in words.

    Args:
        env_id: One of `level_ids()`.
    """

    def __init__(self, env_id: str) -> None:
        mission = _levels()[env_id]
        self.env_id = env_id
        self.task = VARYING_TASK if mission is None else mission or NO_MISSION
        self.actions = list(ACTIONS[:NUM_MOVES] if "Dynamic-Obstacles" in env_id else ACTIONS)
        self.hints = list(self.actions)  # the phrases read as advice

    def describe(self, observation: object) -> str:
        return view_words(self.view(observation), task=self.task)

    def recall(self, observation: object, past: Sequence[object]) -> str:
        """Returns the text with the things that were in view before and are not now, the latest first."""
        view = self.view(observation)
        now = {_name(thing) for thing in (*view.things, view.carried) if thing}
        seen = (_name(thing) for each in reversed(past) for thing in self.view(each).things if thing.kind in KEPT_KINDS)
        gone = [name for name in dict.fromkeys(seen) if name not in now][:MAX_REMEMBERED]
        return view_words(view, task=self.task) + (f" before {' '.join(gone)}" if gone else "")

    def view(self, observation: object) -> View:
        """Returns all that `describe` tells of an observation."""
        return read_view(self.env_id, observation)

    def legal_actions(self, observation: object) -> list[int]:
        return list(range(len(self.actions)))  # the environment takes any, whatever lies before the agent


def level_ids() -> tuple[str, ...]:
    """Returns the ids of all levels that are described."""
    return tuple(_levels())


def view_words(view: View, *, task: str) -> str:
    """Returns a view as text; its mission is left out where it is the task."""
    mission = f"mission {view.mission} " if view.mission and view.mission != task else ""
    carried = f"carry {_name(view.carried)}" if view.carried else "carry nothing"
    ahead, left, right = view.walls
    things = "".join(f" {_name(thing)} {_place(thing)}" for thing in view.things)
    return f"{mission}{carried} wall ahead {ahead} left {left} right {right}{things}"


def _name(thing: Thing) -> str:
    return " ".join(word for word in (thing.state, thing.colour, thing.kind) if word)


def _place(thing: Thing) -> str:
    ahead = [f"ahead {thing.ahead}"] if thing.ahead else []
    aside = [f"{'left' if thing.right < 0 else 'right'} {abs(thing.right)}"] if thing.right else []
    return " ".join(ahead + aside)


@cache
def _levels() -> dict[str, str | None]:
    levels: dict[str, str | None] = json.loads(LEVELS_PATH.read_text(encoding="utf-8"))
    return levels
