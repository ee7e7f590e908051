"""A cache that is bounded by the tokens of what it holds, since entries differ in size a thousandfold."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Remembers values until those kept after them are too many tokens. Threads may share one.

    Args:
        max_tokens: Of all values together.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._num_tokens = 0
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()  # a dict's popitem is slow at the old end
        self._lock = threading.Lock()  # guards both

    def get(self, key: Key) -> Value | None:
        """Returns what is kept, None where nothing is."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def keep(self, key: Key, value: Value, num_tokens: int) -> Value:
        """Returns the value that is kept from now on: another thread may have made it at the same time."""
        with self._lock:
            if key in self._kept:  # counted once, or the count would never come down again
                return self._kept[key][0]
            self._kept[key] = value, num_tokens
            self._num_tokens += num_tokens
            while self._num_tokens > self._max_tokens:
                self._num_tokens -= self._kept.popitem(last=False)[1][1]
        return value
