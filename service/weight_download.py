"""`GET /weights/{policy_version}`: the file of a retained version, whole.

It is opened before the status goes out: a version that is forgotten at that moment is either 404
or sent to its end. Range is not heeded, as RFC 9110 allows: a part of a policy serves nobody.
"""

from __future__ import annotations

import asyncio
import os
from io import FileIO
from pathlib import Path

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hintwise.errors import NotRetained
from service.bodies import while_connected
from service.request_context import CLIENT_LEFT, count_as
from service.weight_upload import SAFETENSORS

READ_BYTES = 2**20
MAX_IDLE_S = 30.0
"""Time in which a reader must have made room for the next part; a slow one may take as long as it likes in all."""
log = structlog.get_logger("service")


class KeptFile(Response):
    """Sends a file until its end, or until the reader leaves or stops reading.

    Args:
        path: Of a retained version.
    """

    media_type = SAFETENSORS

    def __init__(self, path: Path) -> None:
        super().__init__(headers={"Content-Disposition": f'attachment; filename="{path.name}"'})
        self._path = path

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
            try:
                await while_connected(Request(scope, receive), self._send(file, send))
            except ClientDisconnect:
                count_as(scope, CLIENT_LEFT)
            except TimeoutError:
                log.warning("reader of weights stopped reading", file=self._path.name, idle_s=MAX_IDLE_S)
                count_as(scope, CLIENT_LEFT)

    async def _send(self, file: FileIO, send: Send) -> None:
        self.headers["content-length"] = str(os.fstat(file.fileno()).st_size)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while chunk := await asyncio.to_thread(file.read, READ_BYTES):
            async with asyncio.timeout(MAX_IDLE_S):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
