"""Finished hints, so that what was written once is not written again by the same model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from hintwise.bounded_cache import BoundedCache
from service.answer_cache import Lookups
from service.written_hint import WrittenHint

Key = TypeVar("Key", bound=Hashable)


class HintCache:
    """Keeps hints by (model digest, prompt, sampling); the oldest go first.

    Args:
        max_hints: How many are kept; 0 keeps none.
        on_lookups: Told of every batch.
    """

    def __init__(self, max_hints: int, on_lookups: Callable[[Lookups], None] = lambda lookups: None) -> None:
        self._kept: BoundedCache[tuple[str, Hashable], WrittenHint] = BoundedCache(max_hints)
        self._max_hints = max_hints
        self._on_lookups = on_lookups

    def find(self, digest: str, asked: Mapping[Key, int]) -> dict[Key, WrittenHint]:
        """Returns the hints that the model of `digest` wrote before.

        Args:
            digest: Of the model's weights.
            asked: The distinct hints of a batch, and how often each is asked for.
        """
        known: dict[Key, WrittenHint] = {}
        if self._max_hints:
            looked_up = ((key, self._kept.get((digest, key))) for key in asked)
            known = {key: hint for key, hint in looked_up if hint is not None}
        self._on_lookups(Lookups(len(known), sum(asked.values()) - len(asked), len(asked) - len(known)))
        return known

    def keep(self, digest: str, hints: Mapping[Key, WrittenHint]) -> None:
        """Keeps hints that the model of `digest` has written."""
        if self._max_hints:
            for key, hint in hints.items():
                self._kept.keep((digest, key), hint, 1)
