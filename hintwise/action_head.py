"""The `head` readout: one linear layer that has a column for each action of a fixed list.

The phrase readout asks how likely each action's words are; a head answers at once, from the
last prompt token, and reads nothing behind it:

    row             scores of the whole list           an observation's own legal actions
    p1 p2 p3 p4     [left, wait, right]           ──▶  gathered in the order that was asked
             └ scores and value are read here
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hintwise.digests import sha256_of
from hintwise.errors import InvalidRequest, Offence
from hintwise.fields import check_action_list
from hintwise.phrases import NO_TREE, Tree

MAX_SHOWN_CHARS = 300
"""A list may have 256 phrases; the beginning tells which one it is."""


@dataclass(frozen=True)
class HeadColumns:
    """The columns of the head that one observation may choose among, in the order it was asked."""

    columns: tuple[int, ...]

    trees: ClassVar[tuple[Tree, ...]] = (NO_TREE,)
    num_rows: ClassVar[int] = 1
    num_row_tokens: ClassVar[int] = 0
    num_positions: ClassVar[int] = 0

    @property
    def num_actions(self) -> int:
        return len(self.columns)


class HeadActions:
    """The list of actions that a head was built for; it belongs to the policy's identity.

    Args:
        actions: 1 to 256 distinct phrases; their order is the order of the columns.

    Raises:
        ValueError: They are not; the message says which entry.
    """

    def __init__(self, actions: Sequence[str]) -> None:
        self.actions: tuple[str, ...] = tuple(check_action_list(list(actions)))
        self._column_of = {action: column for column, action in enumerate(self.actions)}

    @property
    def identity(self) -> str:
        """Returns the list in a few characters, `head 2:e02e5a6e6ad6`: other actions, or another order, differ."""
        return f"head {len(self.actions)}:{sha256_of(json.dumps(self.actions).encode())[:12]}"

    def columns(self, actions: Sequence[str], *, place: str = "actions") -> HeadColumns:
        """Returns the columns of some or all of the list, in any order.

        Args:
            actions: What is asked for.
            place: Where the request has them.

        Raises:
            InvalidRequest: One is not in the list; the offence names the place and shows the list.
        """
        unknown = [action for action in actions if action not in self._column_of]
        if unknown:
            raise InvalidRequest(
                "the policy's head was built for other actions",
                errors=[Offence(place, f"{unknown[0]!r} is not among those the head answers for: {self}")],
            )
        return HeadColumns(tuple(self._column_of[action] for action in actions))

    def __str__(self) -> str:
        shown = json.dumps(self.actions, ensure_ascii=False)
        return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}... ({len(self.actions)})"


def parse_head_actions(text: str) -> tuple[str, ...]:
    """Returns a list of actions from one line: a JSON list of texts, or phrases with commas between them.

    Raises:
        ValueError: It is neither, or no usable list; the message says why.
    """
    if not text.lstrip().startswith("["):
        return HeadActions([phrase.strip() for phrase in text.split(",")]).actions
    try:
        return HeadActions(json.loads(text)).actions
    except json.JSONDecodeError as error:
        raise ValueError(f"begins like a JSON list, but is none: {error}") from error
