"""An event stream at its end: what is complete stays complete."""

import asyncio
from collections import deque

import pytest

from service.event_stream import Event, EventStream

TOKEN, DONE = [Event("token", b"{}")], [Event("done", b"{}")]
PATIENCE_S = 30


@pytest.mark.parametrize("batches", [[DONE], [TOKEN, DONE], [TOKEN, TOKEN, DONE]], ids=len)
async def test_nothing_follows_the_last_event_though_time_runs_out_while_the_source_ends(batches):
    loop, sent, closed = asyncio.get_running_loop(), [], []
    deadline = loop.time() + 0.2

    async def source():
        try:
            for batch in batches:
                yield batch
        finally:
            await asyncio.sleep(deadline + 0.05 - loop.time())
            closed.append(True)

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    events, scope = source(), {"type": "http", "path": "/guidance"}
    stream = EventStream(await anext(events), events, deadline=deadline)
    await asyncio.wait_for(stream(scope, receive, send), PATIENCE_S)
    bodies = deque(sent[1:])
    last = bodies.pop()
    assert last == {"type": "http.response.body", "body": b"event: done\ndata: {}\n\n", "more_body": False}
    assert all(body["more_body"] for body in bodies)
    assert len(bodies) == len(batches) - 1
    assert "hintwise.counted_status" not in scope
    assert closed
