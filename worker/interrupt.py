"""SIGINT and SIGTERM: the first asks for a clean stop, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from worker.errors import Interrupted

SIGNALS = signal.SIGINT, signal.SIGTERM


class StopRequest:
    """Remembers that a signal asked to stop; used as a context manager around a run."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises `Interrupted` once a signal has come; called where stopping is safe."""
        if self._received is not None:
            raise Interrupted(f"stopped by {self._received.name}", signal_number=self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = signal.Signals(number)
