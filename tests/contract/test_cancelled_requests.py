"""A request that is cancelled: told so when the process ends, left alone when its caller cancelled it."""

import asyncio
import socket

import pytest
import uvicorn

from service.request_context import RequestContext
from service.server import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCOPE = {"type": "http", "method": "POST", "path": "/act", "headers": []}


async def cancelled(service, *, stopping, begun):
    """Returns what is sent of an answer that is cancelled, and whether the cancellation went on."""
    sent, waits = [], asyncio.Event()

    async def answering(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        waits.set()
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    app = RequestContext(answering, metrics=service.engine.metrics, policy_version=lambda: 1, stopping=lambda: stopping)
    asked = asyncio.create_task(app(SCOPE, None, send))
    await waits.wait()
    asked.cancel()
    await asyncio.wait([asked])
    return [message.get("status") for message in sent if message["type"] == "http.response.start"], asked.cancelled()


async def test_when_the_process_ends_the_caller_is_told(service):
    assert await cancelled(service, stopping=True, begun=False) == ([503], False)


async def test_an_answer_that_has_begun_breaks_off(service):
    assert await cancelled(service, stopping=True, begun=True) == ([200], True)


async def test_a_caller_who_cancels_is_not_answered(service):
    assert await cancelled(service, stopping=False, begun=False) == ([], True)


async def test_who_is_told_at_the_end_of_the_time_is_cancelled_only_later(service):
    """Otherwise telling and cancelling race, and a stream may break off without its last event."""
    with socket.socket() as listener:
        server = Server(uvicorn.Config(None), listener=listener, engine=service.engine)
    assert server.config.timeout_graceful_shutdown > service.engine.settings.shutdown_timeout_s
