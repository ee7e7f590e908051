"""Work that can be done while the service is busy with a request.

    later(job) ... request sent ──▶ run() ──▶ answer read ──▶ run() again, in case nobody did

Everything happens in one thread and in the order it was asked for, so that a run stays the same
run whether or not its client knows how to call `run` in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Meanwhile:
    """Jobs that wait for the next request, and are done at the latest once it is answered."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], object]] = deque()

    def later(self, job: Callable[[], object]) -> None:
        """Puts off `job`; it must not ask the service for anything."""
        self._jobs.append(job)

    def run(self) -> None:
        """Does all that was put off, in order."""
        while self._jobs:
            self._jobs.popleft()()
