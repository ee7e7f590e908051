"""`GET /weights/{policy_version}`: a retained version, whole.

    ?format=full     whole weights, whatever was pushed: the kept file, or what an adapter makes of the model
    ?format=pushed   the kept file, whose digest is the version's

A file is opened before the status goes out: a version that is forgotten at that moment is either
404 or sent to its end. Range is not heeded, as RFC 9110 allows: a part of a policy serves nobody.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from io import FileIO
from pathlib import Path

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hintwise.errors import DeadlineExceeded, InvalidRequest, NotRetained, Offence
from service.bodies import deadline_of, while_connected
from service.engine import Engine
from service.request_context import CLIENT_LEFT, count_as
from service.weight_adapter import is_adapter_file, whole_file
from service.weight_upload import SAFETENSORS

READ_BYTES = 2**20
MAX_IDLE_S = 30.0
"""Time in which a reader must have made room for the next part; a slow one may take as long as it likes in all."""
log = structlog.get_logger("service")


FORMS = "full", "pushed"
FORM = "`full`: whole weights, also of a version that was pushed as an adapter; `pushed`: the file as it was pushed."


async def kept_version(request: Request, engine: Engine, policy_version: int, form: str) -> Response:
    """Returns the answer that sends a retained version.

    Args:
        request: Its time covers what comes before the first byte.
        engine: Whose versions they are.
        policy_version: The version.
        form: One of `FORMS`.

    Raises:
        InvalidRequest: There is no such form.
        NotRetained: There is no such version; the message lists those there are.
        Unavailable: It is an adapter, and the model that it changes can be read no more.
        DeadlineExceeded: There was not enough time to apply an adapter.
    """
    if form not in FORMS:
        raise InvalidRequest("a parameter is not valid", errors=[Offence("format", f"choose {' or '.join(FORMS)}")])
    path, settings = engine.store.path_of(policy_version), engine.settings
    deadline = deadline_of(request, default_ms=settings.request_timeout_ms, max_ms=settings.max_request_timeout_ms)
    try:
        async with asyncio.timeout_at(deadline):
            if form == "full" and await asyncio.to_thread(_needs_merging, path):
                return MergedFile(path, await asyncio.to_thread(whole_file, path, engine.policy))
    except TimeoutError as error:
        raise DeadlineExceeded("the adapter could not be applied in time; raise X-Request-Timeout-Ms") from error
    return KeptFile(path)


def _needs_merging(path: Path) -> bool:
    return path.exists() and is_adapter_file(path)  # what is gone by now is `KeptFile`'s to refuse


class _Download(Response, ABC):
    """Sends weights until their end, or until the reader leaves or stops reading.

    Args:
        path: Of a retained version.
    """

    media_type = SAFETENSORS

    def __init__(self, path: Path) -> None:
        super().__init__(headers={"Content-Disposition": f'attachment; filename="{path.name}"'})
        self._path = path

    @abstractmethod
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, size: int, chunks: AsyncIterator[bytes]
    ) -> None:
        try:
            await while_connected(Request(scope, receive), self._send(send, size, chunks))
        except ClientDisconnect:
            count_as(scope, CLIENT_LEFT)
        except TimeoutError:
            log.warning("reader of weights stopped reading", file=self._path.name, idle_s=MAX_IDLE_S)
            count_as(scope, CLIENT_LEFT)

    async def _send(self, send: Send, size: int, chunks: AsyncIterator[bytes]) -> None:
        self.headers["content-length"] = str(size)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in chunks:
            async with asyncio.timeout(MAX_IDLE_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class KeptFile(_Download):
    """Sends a file as it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers.

        Raises:
            NotRetained: The file is gone.
        """
        try:
            file = await asyncio.to_thread(FileIO, self._path)
        except FileNotFoundError:
            raise NotRetained(f"{self._path.name} is gone; GET /weights lists the versions that are kept") from None
        with file:
            await self._answer(scope, receive, send, os.fstat(file.fileno()).st_size, _read(file))


class MergedFile(_Download):
    """Sends a file that is made of tensors in memory.

    Args:
        path: Of the adapter that it was made of.
        pieces: Of the file, in order.
    """

    def __init__(self, path: Path, pieces: Sequence[bytes | memoryview]) -> None:
        super().__init__(path)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send, sum(map(len, self._pieces)), _slices(self._pieces))


async def _read(file: FileIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, READ_BYTES):
        yield chunk


async def _slices(pieces: Sequence[bytes | memoryview]) -> AsyncIterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), READ_BYTES):
            yield bytes(piece[start : start + READ_BYTES])
