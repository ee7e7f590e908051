"""Server-sent events: an answer that is written while it comes to be.

    event: token
    data: {"observation":0,"hint":0,"text":"push"}
                                                    an empty line ends an event

The first event is there before the status goes out, so what fails at once is an ordinary
problem. What fails later is an `error` event, the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hintwise.errors import DeadlineExceeded, HintwiseError
from service.batcher import TOO_LATE
from service.bodies import while_connected
from service.problems import problem, unforeseen
from service.request_context import CLIENT_LEFT, count_as

LAST_WORDS_S = 1.0
"""Time for the event that says a deadline has passed; a reader that takes none of it has stopped reading."""
LAST = ("done", "error")
log = structlog.get_logger("service")


class Event(NamedTuple):
    """One event; its data is JSON and therefore one line."""

    name: str
    data: bytes

    def encode(self) -> bytes:
        return b"event: %b\ndata: %b\n\n" % (self.name.encode(), self.data)


Events: TypeAlias = Sequence[Event]
"""Events that are sent together."""


class EventStream(Response):
    """Sends events until they end, fail, the deadline passes, or the reader leaves; then it stops their source.

    Args:
        first: The events that are there already.
        rest: The events that follow; the last is `done`.
        deadline: Event-loop time by which the last event must have been taken.
    """

    media_type = "text/event-stream"

    def __init__(self, first: Events, rest: AsyncGenerator[Events], *, deadline: float) -> None:
        # a proxy must neither keep the events nor gather them
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            try:
                await while_connected(Request(scope, receive), self._send(scope, send))
            except (ClientDisconnect, TimeoutError):
                count_as(scope, CLIENT_LEFT)

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with asyncio.timeout_at(self._deadline):
                events = self._first
                await _send_events(send, events)
                while events[-1].name not in LAST:  # nothing may follow it, however long the source takes to end
                    events = await anext(self._rest)
                    await _send_events(send, events)
        except Exception as error:  # noqa: BLE001 (the status is out: an event is the only way left to tell)
            async with asyncio.timeout(LAST_WORDS_S):
                await _send_events(send, [self._failure(scope, error)])

    def _failure(self, scope: Scope, error: Exception) -> Event:
        """Returns the event that tells of a failure, which the metrics count as its status."""
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded(TOO_LATE)
        if isinstance(error, HintwiseError):
            log.warning("stream failed", path=scope["path"], status=error.status, detail=error.detail)
            told = problem(error)
        else:
            told = unforeseen(scope["path"], error)
        count_as(scope, told.status_code)
        return Event("error", bytes(told.body))


async def _send_events(send: Send, events: Events) -> None:
    """Sends events at once; with the last one goes the end of the body, so that a reader who then leaves has it all."""
    more = events[-1].name not in LAST
    await send({"type": "http.response.body", "body": b"".join(each.encode() for each in events), "more_body": more})
