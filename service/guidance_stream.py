"""`POST /guidance` with `"stream": true`: hints leave while they are written.

    inference thread ──tokens──▶ pieces of text ──token events──▶ reader
                                 the whole body ──done event────▶

Tokens that come while the reader is slow are sent together, so that what waits is never more
than the hints themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from hintwise.schemas import GuidanceRequest
from service.engine import Engine
from service.event_stream import Event, Events, EventStream
from service.guidance import guide
from service.hint_reader import HintReader, NewToken
from service.hint_text import HintText


async def guide_or_stream(engine: Engine, request: GuidanceRequest, *, deadline: float) -> dict[str, Any] | Response:
    """Returns the body of the answer, or the stream that was asked for once it has begun.

    Raises:
        HintwiseError: As `guide` does, also where a stream was asked for and nothing of it was sent yet.
    """
    if not request.stream:
        return await guide(engine, request, deadline=deadline)
    events = _events(engine, request, deadline)
    return EventStream(await anext(events), events, deadline=deadline)


async def _events(engine: Engine, request: GuidanceRequest, deadline: float) -> AsyncGenerator[Events]:
    """Yields token events as text comes, and the answer at last."""
    pieces = _Pieces(engine, request.num_hints)
    writing = asyncio.ensure_future(guide(engine, request, deadline=deadline, reader=HintReader(pieces.add)))
    writing.add_done_callback(lambda _: pieces.came.set())
    try:
        while not writing.done():
            await pieces.came.wait()
            if tokens := pieces.take():
                yield tokens
        answer = writing.result()
        if request.mode == "free" and (tokens := pieces.take_rest(answer)):
            yield tokens
        yield [Event("done", to_json(answer))]
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


class _Pieces:
    """Text that has come and was not sent yet, by hint."""

    def __init__(self, engine: Engine, num_hints: int) -> None:
        self.came = asyncio.Event()
        self._tokenizer = engine.hints.language_model.tokenizer
        self._num_hints = num_hints
        self._texts: dict[int, HintText] = {}
        self._unsent: dict[int, str] = {}

    def add(self, tokens: Sequence[NewToken]) -> None:
        for number, place, token in tokens:
            text = self._texts.setdefault(number, HintText(self._tokenizer))
            self._keep(number, text.add(place, token))
        if self._unsent:
            self.came.set()

    def take(self) -> Events:
        """Returns the events for what has come since the last call."""
        self.came.clear()
        unsent, self._unsent = self._unsent, {}
        return [self._event(number, text) for number, text in unsent.items()]

    def take_rest(self, answer: dict[str, Any]) -> Events:
        """Returns the events that complete every hint of the whole answer."""
        hints = [hint for result in answer["results"] for hint in result["hints"]]
        for number, hint in enumerate(hints):
            text = self._texts.setdefault(number, HintText(self._tokenizer))
            self._keep(number, text.rest(hint["text"]))
        return self.take()

    def _keep(self, number: int, piece: str) -> None:
        if piece:
            self._unsent[number] = self._unsent.get(number, "") + piece

    def _event(self, number: int, text: str) -> Event:
        observation, hint = divmod(number, self._num_hints)
        return Event("token", to_json({"observation": observation, "hint": hint, "text": text}))
