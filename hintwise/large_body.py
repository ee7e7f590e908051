"""A large body, handed to httpx in pieces.

httpx passes `content` on whole, and httpcore cuts what the socket has not taken yet off its front
with a copy each time: the time grows with the square of the size, to 18 s for 500 MB. In pieces
it grows with the size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx

PIECE_BYTES = 256 * 2**10
"""Small enough to stay in the processor's cache on its way into the socket."""


class LargeBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Yields `data` piece by piece, for either client and any number of times.

    Args:
        data: Not copied as a whole.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), PIECE_BYTES):
            yield self._data[start : start + PIECE_BYTES]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece
