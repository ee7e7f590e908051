"""Waiting until what was written would survive a power cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file, or the names in a directory, would survive a power cut.

    Raises:
        OSError: The disk failed. A directory of a file system that flushes none, as some of a network, is let pass.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
