"""The library's own client on the real application. The tests in this directory follow the wire contract line by line.

Each test quotes the line it holds. What a client would never send goes through `service.http`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from hintwise import AsyncClient


class Recording(httpx.AsyncBaseTransport):
    """Carries requests to an application, and keeps the last of them with its answer."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.request = request
        self.response = await self._transport.handle_async_request(request)
        return self.response


class Caller(AsyncClient):
    """A client that tries once and shows what crossed the wire."""

    def __init__(self, service: Any, **settings: Any) -> None:
        self.wire = Recording(service.http._transport)
        super().__init__("http://service", **{"token": "", "retry_s": 0.0, "transport": self.wire} | settings)


@pytest.fixture(scope="session")
def calling() -> Callable[..., AsyncClient]:
    """Makes a client of a service."""
    return Caller


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(service: Any) -> AsyncIterator[AsyncClient]:
    """A client of the module's service."""
    async with Caller(service) as caller:
        yield caller
