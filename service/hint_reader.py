"""The one a hint is written for: hears its tokens while they are drawn, and may leave before the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple


class NewToken(NamedTuple):
    """A token that has just been added to a hint."""

    hint: int  # number of the hint within its request
    place: int  # of the token within the hint
    token: int


class HintReader:
    """Stands between the event loop, where a request waits, and the inference thread, where it is answered.

    Args:
        on_tokens: Called on the event loop with the tokens of one step. Where a batch failed and was
            begun again, the same places come again.
    """

    def __init__(self, on_tokens: Callable[[Sequence[NewToken]], None] | None = None) -> None:
        self._on_tokens = on_tokens
        self._loop = asyncio.get_running_loop() if on_tokens else None
        self.left = False
        """Set on the event loop, read on the inference thread: nobody waits for these hints any more."""

    @property
    def listens(self) -> bool:
        """Returns whether `hear` does anything."""
        return self._loop is not None

    def hear(self, tokens: Sequence[NewToken]) -> None:
        """Passes tokens on to the event loop; called on the inference thread, once a step."""
        if self._loop and self._on_tokens:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_tokens, tokens)
