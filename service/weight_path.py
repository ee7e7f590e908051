"""Weights in a file that the service reads itself: which files it opens, and how.

The path comes from a caller who may not see this machine's disk. It is resolved, compared with
the directories that the operator allowed, and then opened one name at a time from there,
following no link: whatever is swapped in between, nothing outside is read. Every refusal reads
the same, so that nobody learns which files exist.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from hintwise.errors import InvalidRequest, Offence, TooLarge

READ_BYTES = 4 * 2**20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Not blocking, since a pipe without a writer would keep the thread for good."""


def open_allowed(path: str, allowed: Sequence[Path]) -> FileIO:
    """Returns the regular file at `path`, opened for reading.

    Args:
        path: Absolute; links and `..` in it are resolved first.
        allowed: Resolved directories.

    Raises:
        InvalidRequest: No directory is allowed, or `path` is no regular file inside one.
    """
    if not allowed:
        raise _refused("this service takes no weights by path", "the operator allowed no directory; send the bytes")
    with suppress(OSError, ValueError):  # ValueError: a NUL
        if path.startswith("/"):
            resolved = Path(os.path.realpath(path, strict=True))
            for directory in allowed:
                if resolved.is_relative_to(directory):
                    return FileIO(_open_below(directory, resolved.relative_to(directory).parts))
    raise _refused(
        "the path cannot be used", "send the absolute path of a regular file inside a directory the operator allowed"
    )


async def chunks_of(file: FileIO, max_bytes: int) -> AsyncIterator[bytes]:
    """Yields what the file holds, read off the event loop.

    Raises:
        TooLarge: As soon as it is known to have more than `max_bytes`.
    """
    if os.fstat(file.fileno()).st_size > max_bytes:
        raise TooLarge(f"the file has more than {max_bytes} bytes, the limit")
    received = 0
    while chunk := await asyncio.to_thread(file.read, READ_BYTES):
        received += len(chunk)
        if received > max_bytes:  # it grows while it is read
            raise TooLarge(f"the file has more than {max_bytes} bytes, the limit")
        yield chunk


def _open_below(directory: Path, names: Sequence[str]) -> int:
    """Returns a descriptor of the regular file that `names` lead to from `directory`, following no link.

    Raises:
        OSError: There is none.
    """
    if not names:
        raise IsADirectoryError(directory)
    at = os.open(directory, DIRECTORY)
    try:
        for name in names[:-1]:
            parent, at = at, os.open(name, DIRECTORY, dir_fd=at)
            os.close(parent)
        found = os.open(names[-1], FILE, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise FileNotFoundError(names[-1])
    return found


def _refused(detail: str, message: str) -> InvalidRequest:
    return InvalidRequest(detail, errors=[Offence("path", message)])
