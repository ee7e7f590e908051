"""How hints speak of actions: what they are called there, and which one a hint asks for."""

from __future__ import annotations

from collections.abc import Sequence

DIRECTIONS = frozenset({"left", "right", "up", "down"})
_OPPOSITE = {"left": "right", "right": "left"}


def verb_phrase(action: str) -> str:
    """Returns an action as advice: `go left` for the action `left`."""
    return f"go {action}" if action in DIRECTIONS else action


def named_action(hint: str, actions: Sequence[str]) -> str | None:
    """Returns the action that a written hint begins with; the longest where several do."""
    begun = [
        action
        for action in actions
        for phrase in (verb_phrase(action), action)
        if f"{hint} ".startswith(f"{phrase} ") or hint.startswith(f"{phrase},")
    ]
    return max(begun, key=len, default=None)


def exchanged(text: str) -> str:
    """Returns a text with the words left and right exchanged."""
    return " ".join(_OPPOSITE.get(word, word) for word in text.split(" "))


def goal_of(hint: str, actions: Sequence[str]) -> str:
    """Returns what a written hint asks for behind its action, `to pick up the key`; all of it where that is nothing."""
    action = named_action(hint, actions)
    if action is None:
        return hint
    phrase = verb_phrase(action) if hint.startswith(verb_phrase(action)) else action
    return hint.removeprefix(phrase).lstrip(" ,") or hint
