"""Reading request bodies: a byte limit, a content type, JSON straight into a schema.

The handlers read bodies themselves, so that bytes become a checked schema in one step (about
half the time of a dict in between) and 400, 413, 415 and 422 stay apart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from hintwise.errors import InvalidRequest, Offence, TooLarge, UnsupportedMediaType
from service.problems import invalid_body

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")


async def read_json(request: Request, schema: type[Body], *, max_bytes: int) -> Body:
    """Returns the request's JSON body as `schema`.

    Raises:
        MalformedRequest: Not JSON.
        TooLarge: More than `max_bytes`.
        UnsupportedMediaType: Another content type.
        InvalidRequest: JSON that does not fit; offences name each field.
    """
    content_type = header_of(request.scope, b"content-type")
    if content_type not in (None, "application/json"):
        essence = content_type.partition(";")[0].strip().lower()
        if essence != "application/json":
            raise UnsupportedMediaType(f"the body is {essence}; send application/json")
    body = await _whole_body(request, max_bytes)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from None


async def limited_stream(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yields the body's chunks, and raises `TooLarge` as soon as it is known to pass `max_bytes`."""
    _check_declared_length(request.scope, max_bytes)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        _check_length(received, max_bytes)
        yield chunk


async def _whole_body(request: Request, max_bytes: int) -> bytes | bytearray:
    """Returns what `limited_stream` would yield, read message by message: most bodies are one message."""
    _check_declared_length(request.scope, max_bytes)
    body: bytes | bytearray = b""
    more_body = True
    while more_body:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        _check_length(len(body) + len(chunk), max_bytes)
        more_body = message.get("more_body", False)
        if body or more_body:
            body = bytearray(body) if isinstance(body, bytes) else body  # grows in place
            body += chunk
        else:
            body = chunk
    return body


def _check_declared_length(scope: Scope, max_bytes: int) -> None:
    declared = header_of(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        raise TooLarge(f"the body has {declared} bytes; the limit is {max_bytes}")


def _check_length(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise TooLarge(f"the body has more than {max_bytes} bytes, the limit")


def header_of(scope: Scope, name: bytes) -> str | None:
    """Returns the first header called `name`, in lower case; Starlette's own mapping decodes every header to look."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Returns what `work` returns, and cancels it when the caller hangs up.

    Call it once the body has been read: the next message then is the disconnect.

    Raises:
        ClientDisconnect: The caller left first; nobody reads the answer.
    """
    asked = asyncio.current_task()
    assert asked is not None  # noqa: S101 (we are a coroutine)
    cancellations, left = asked.cancelling(), False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        asked.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and asked.uncancel() <= cancellations:  # nobody else cancelled us
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()


def deadline_of(request: Request, *, default_ms: int, max_ms: int) -> float:
    """Returns the event-loop time at which the request's `X-Request-Timeout-Ms` has passed.

    Raises:
        InvalidRequest: The header is not a whole number from 1 to `max_ms`.
    """
    given = header_of(request.scope, b"x-request-timeout-ms")
    if given is None:
        timeout_ms = default_ms
    elif given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= max_ms:
        timeout_ms = int(given)
    else:
        raise InvalidRequest(
            "a header is not valid", errors=[Offence("X-Request-Timeout-Ms", f"send milliseconds, 1 to {max_ms}")]
        )
    return asyncio.get_running_loop().time() + timeout_ms / 1e3
