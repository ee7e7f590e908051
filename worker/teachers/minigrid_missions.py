"""MiniGrid's and BabyAI's missions of one errand, parsed.

| mission                                   | errand                             |
| ----------------------------------------- | ---------------------------------- |
| `go to the red ball`                      | go to, a red ball                  |
| `pick up a key on your left`, `get a key` | pick up, a key                     |
| `open the door`                           | open, a door                       |
| `use the key to open the door and ...`    | reach the goal                     |
"""

from __future__ import annotations

import re
from typing import NamedTuple

from hintwise.describers.minigrid_view import COLOURS, Thing

KINDS = ("door", "key", "ball", "box")
VERBS = {
    "go to": "go to",
    "pick up": "pick up",
    "open": "open",
    "get": "pick up",
    "go get": "pick up",
    "fetch": "pick up",
    "go fetch": "pick up",
    "you must fetch": "pick up",
}
_ERRAND = re.compile(
    rf"({'|'.join(VERBS)}) (?:the|a) (?:({'|'.join(COLOURS)}) )?({'|'.join(KINDS)}|object)"
    r"(?: in front of you| behind you| on your left| on your right)?"
)
REACH = "reach"


class Errand(NamedTuple):
    """What a mission asks for; no colour or kind is any."""

    verb: str  # "reach" the goal, "go to", "pick up" or "open"
    colour: str = ""
    kind: str = ""

    def wants(self, thing: Thing) -> bool:
        """Returns whether a thing is what the errand is about.

        Where it was when the episode began ("on your left") is not told later, so any such thing counts.
        """
        if self.verb == REACH:
            return thing.kind == "goal"
        kind_fits = thing.kind == self.kind if self.kind else thing.kind in KINDS
        return kind_fits and self.colour in ("", thing.colour)


def parse_mission(mission: str) -> Errand | None:
    """Returns the one errand of a mission; None for several, for puts and for what is not known."""
    found = _ERRAND.fullmatch(mission)
    if found:
        verb, colour, kind = found.groups()
        return Errand(VERBS[verb], colour or "", "" if kind == "object" else kind)
    return Errand(REACH) if "goal" in mission.split() else None
