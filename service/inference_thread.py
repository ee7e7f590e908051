"""The one thread that touches the models.

A weight swap is a job on this thread, so it falls between two batches, and no batch mixes two
versions of the weights.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

import structlog

from hintwise.errors import DeadlineExceeded, Unavailable

STOPPING = "the service is stopping"
T = TypeVar("T")
log = structlog.get_logger("service")


class _Job(NamedTuple):
    run: Callable[[], None]
    drop: Callable[[], object]


class InferenceThread:
    """Runs jobs one after another, in the order they were given.

    Python's own pool of threads with one thread does the same, and takes three locks and makes a future for
    each job; a turn of a batcher needs none of that.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()  # None: the end
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._lock = threading.Lock()  # guards the state below, so that nothing is put in line behind the end
        self._started = self._stopped = False

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
        future: Future[T] = Future()
        if not self._put(_Job(lambda: _carry_out(job, future), future.cancel)):
            raise Unavailable(STOPPING)
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
        self._put(_Job(job, lambda: None))

    def stop(self) -> None:
        """Ends the thread after the job in hand; jobs that wait are dropped."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._drop_waiting()
                self._jobs.put(None)
        if self._started:
            self._thread.join()

    def _put(self, job: _Job) -> bool:
        """Returns whether the job is in line; a thread that has stopped takes none."""
        with self._lock:
            if self._stopped:
                return False
            if not self._started:
                self._started = True
                self._thread.start()
            self._jobs.put(job)
            return True

    def _drop_waiting(self) -> None:
        try:
            while job := self._jobs.get_nowait():
                job.drop()
        except Empty:
            pass

    def _work(self) -> None:
        while job := self._jobs.get():
            try:
                job.run()
            except Exception as error:  # the thread outlives whatever a job does
                log.error("a job of the model thread failed", exc_info=error)
            del job  # while it waits for the next, it keeps nothing of this one alive


def _carry_out(job: Callable[[], T], future: Future[T]) -> None:
    """Runs a job whose caller waits for the future, unless the caller has gone."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 (the caller's to judge)
        future.set_exception(error)
