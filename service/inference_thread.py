"""The one thread that touches the models.

A weight swap is a job on this thread, so it falls between two batches, and no batch mixes two
versions of the weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class InferenceThread:
    """Runs jobs one after another, in the order they were given."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def run(self, job: Callable[[], T]) -> T:
        """Returns what `job` returns, once every job given before has ended."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def start(self, job: Callable[[], None]) -> None:
        """Puts `job` in line without waiting for it; it must not raise. A stopped thread takes no more."""
        with suppress(RuntimeError):
            self._executor.submit(job)

    def stop(self) -> None:
        """Ends the thread after the job in hand; jobs that wait are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
