"""Hints that are wrong on purpose, to see what wrong ones cost: as plausible as right ones, and as steady.

    go forward to reach the door        turn left to reach the door         another legal action
    turn left to pick up the key        turn right to pick up the key       the other side, where there is one

The same state has the same wrong hint, as it has the same right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from worker.hint_words import exchanged, named_action, verb_phrase


def wrong_hint(hint: str, text: str, actions: Sequence[str]) -> str:
    """Returns a hint that asks for another legal action; the same one where there is no other, or none was named.

    Args:
        hint: The right one.
        text: State that it is about.
        actions: Phrases of the actions that are legal there.
    """
    named = named_action(hint, actions)
    others = [action for action in actions if action != named]
    if named is None or not others:
        return hint
    if exchanged(named) in others:
        return exchanged(hint)
    digest = sha256(f"{text}\n{hint}".encode()).digest()
    other = others[int.from_bytes(digest[:8]) % len(others)]
    phrase = verb_phrase(named) if hint.startswith(verb_phrase(named)) else named
    return verb_phrase(other) + hint.removeprefix(phrase)
