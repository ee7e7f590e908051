"""Gymnasium's space for texts: bounded, and with every character that they may have."""

from __future__ import annotations

import string

from gymnasium.spaces import Text

from hintwise.errors import InvalidRequest

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
MAX_TEXT_CHARS = 4_096
MAX_HINT_CHARS = 512
BETWEEN = "\nhint: "
"""Between a text and its hint, as in the prompts that the models know."""


def text_space(max_length: int) -> Text:
    """Returns the space of texts in English letters, digits and punctuation."""
    return Text(max_length, min_length=0, charset=PRINTABLE)


def joined_space(first: Text, second: Text) -> Text:
    """Returns the space of a text, alone or with a hint behind it."""
    charset = first.character_set | second.character_set | frozenset(BETWEEN)
    return Text(first.max_length + len(BETWEEN) + second.max_length, min_length=first.min_length, charset=charset)


def check_text(text: str, space: Text, *, what: str, argument: str) -> str:
    """Returns a text that its space holds.

    Raises:
        InvalidRequest: It does not; says why, and what to pass instead.
    """
    if text in space:
        return text
    strange = sorted(set(text) - space.character_set)
    reason = f"has {strange[0]!r}" if strange else f"has {len(text)} characters"
    raise InvalidRequest(
        f"{what} {reason}, which its space of {space.min_length} to {space.max_length} characters does not hold: "
        f"pass {argument}=gymnasium.spaces.Text(...) with a larger max_length or charset; it begins {text[:80]!r}"
    )
