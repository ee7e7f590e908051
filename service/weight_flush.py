"""One thread that brings the weights directory to the disk, after the version it keeps serves already.

    push ─▶ request ─▶ ┌ thread ┐ ─▶ store.flush: files, record, directory
    push ─▶ request ─▶ └────────┘    once for both, where the second came before the first was begun

A flush that fails is told and counted, and serving goes on; the next change of weights tries again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

log = structlog.get_logger("service")


class Flusher:
    """Runs `flush` once or more after each `request`, never twice at a time.

    Args:
        flush: Takes as long as the disk does.
        on_failure: Called after a flush that raised.
    """

    def __init__(self, flush: Callable[[], None], *, on_failure: Callable[[], None]) -> None:
        self._flush = flush
        self._on_failure = on_failure
        self._state = threading.Condition()
        self._requested = self._busy = self._stopping = False
        # A daemon, since the interpreter waits for others without a limit, and a disk may never answer.
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Has everything that was recorded until now flushed soon."""
        with self._state:
            self._requested = True
            self._state.notify_all()

    def stop(self, limit_s: float) -> bool:
        """Ends the thread once what was requested is done; returns whether it was, within `limit_s`."""
        with self._state:
            self._stopping = True
            self._state.notify_all()
            if self._requested or self._busy:
                log.info("waiting until the weights are on disk", limit_s=limit_s)
            started = time.monotonic()
            done = self._state.wait_for(lambda: not (self._requested or self._busy), limit_s)
        if not done:
            log.warning("stopping before the weights were on disk; a power cut may lose them", limit_s=limit_s)
            return False
        self._thread.join(max(0.0, limit_s - (time.monotonic() - started)))
        return True

    def _run(self) -> None:
        while self._next():
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001 (whatever it is, the next push needs this thread)
                log.error("the weights may not survive a power cut; push again", reason=str(error))
                self._on_failure()
            finally:
                with self._state:
                    self._busy = False
                    self._state.notify_all()

    def _next(self) -> bool:
        """Waits for a request and takes it; returns False once there is none and none will come."""
        with self._state:
            self._state.wait_for(lambda: self._requested or self._stopping)
            self._busy, self._requested = self._requested, False
            return self._busy
