"""One service at a time holds a weights directory."""

from __future__ import annotations

import fcntl
import time
from typing import IO

LOCK_TIMEOUT_S = 5.0
LOCK_RETRY_S = 0.1


def lock(file: IO[str]) -> bool:
    """Returns whether the file could be locked; a service that is just stopping is waited for."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_RETRY_S)
        else:
            return True
