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

from hintwise.errors import DeadlineExceeded, Unavailable

STOPPING = "the service is stopping"
T = TypeVar("T")


class InferenceThread:
    """Runs jobs one after another, in the order they were given."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")

    async def run(self, job: Callable[[], T], *, deadline: float | None = None) -> T:
        """Returns what `job` returns, once every job given before has ended.

        A job that has not begun by the deadline, or when its caller is cancelled, never runs. One that
        has begun is waited for, so that nobody is told that it did not happen while it does.

        Args:
            job: Called on the inference thread.
            deadline: Event-loop time by which it must have begun; None waits for its turn.

        Raises:
            DeadlineExceeded: It never ran.
            Unavailable: The thread stopped before it ran.
        """
        now = asyncio.get_running_loop().time
        try:
            future = self._executor.submit(job)
        except RuntimeError:  # stopped
            raise Unavailable(STOPPING) from None
        outcome = asyncio.wrap_future(future)
        try:
            await asyncio.wait({outcome}, timeout=None if deadline is None else max(0.0, deadline - now()))
        finally:
            if not future.cancel():  # it is over, or in hand
                await asyncio.wait({outcome})
        if not future.cancelled():
            return outcome.result()
        if deadline is None or now() < deadline:
            raise Unavailable(STOPPING)
        raise DeadlineExceeded(
            "the model thread was busy until the request's time ran out, and nothing was changed; "
            "raise X-Request-Timeout-Ms, or try again"
        )

    def start(self, job: Callable[[], None]) -> None:
        """Puts `job` in line without waiting for it; it must not raise. A stopped thread takes no more."""
        with suppress(RuntimeError):
            self._executor.submit(job)

    def stop(self) -> None:
        """Ends the thread after the job in hand; jobs that wait are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)
