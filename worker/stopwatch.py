"""Where a run's time goes: at every moment exactly one part is being paid for.

    with stopwatch.on("waiting"):            waiting pays ...
        with stopwatch.on("saving"):         ... but for what is saved meanwhile
            ...

A part inside a part stops the outer one, so that the parts of a lap add up to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

Part = Literal["waiting", "environments", "guidance", "learning", "pushing", "saving", "other"]
PARTS: tuple[Part, ...] = get_args(Part)


class Stopwatch:
    """Charges time to parts.

    Args:
        now: Clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._current: Part = "other"
        self._since = now()
        self._spent: dict[Part, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def on(self, part: Part) -> Iterator[None]:
        """Charges the block to `part`."""
        outer = self._current
        self._charge(part)
        try:
            yield
        finally:
            self._charge(outer)

    def lap(self) -> dict[Part, float]:
        """Returns the seconds of each part since the last lap, and begins the next."""
        self._charge(self._current)
        spent, self._spent = self._spent, dict.fromkeys(PARTS, 0.0)
        return spent

    def _charge(self, following: Part) -> None:
        now = self._now()
        self._spent[self._current] += now - self._since
        self._current, self._since = following, now


def shares(spent_s: Mapping[Part, float]) -> str:
    """Returns what each part took, the largest first; what rounds to 0% is left out."""
    whole = sum(spent_s.values())
    found = sorted(((seconds / whole, part) for part, seconds in spent_s.items() if seconds), reverse=True)
    return ", ".join(f"{part} {share:.0%}" for share, part in found if share >= 0.005) or "-"
