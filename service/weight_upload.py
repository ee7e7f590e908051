"""The headers of a change of weights, and the bytes of a push on their way into a part file."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from starlette.requests import Request

from hintwise.digests import parse_content_digest
from hintwise.errors import InvalidRequest, Offence, PreconditionRequired, UnsupportedMediaType, WeightsRejected
from service.bodies import limited_stream

SAFETENSORS, JSON = "application/octet-stream", "application/json"
WRITE_BYTES = 4 * 2**20


def content_type_of(request: Request) -> str:
    """Returns which of the two kinds of push this is.

    Raises:
        UnsupportedMediaType: Neither.
    """
    content_type = request.headers.get("content-type", SAFETENSORS).partition(";")[0].strip().lower()
    if content_type not in (SAFETENSORS, JSON):
        raise UnsupportedMediaType(
            f'the body is {content_type}; send safetensors as {SAFETENSORS}, or {{"path": ...}} as {JSON}'
        )
    return content_type


def version_replaced(request: Request) -> int:
    """Returns the version that the caller believes to be current.

    Raises:
        PreconditionRequired: No If-Match.
        InvalidRequest: It is malformed.
    """
    if (version := if_match(request)) is None:
        raise PreconditionRequired(
            "a push names the version it replaces",
            errors=[Offence("If-Match", 'send If-Match: "N", N the policy_version of GET /weights')],
        )
    return version


def if_match(request: Request) -> int | None:
    """Returns the version that If-Match names; None without the header.

    Raises:
        InvalidRequest: It is malformed.
    """
    header = request.headers.get("if-match")
    if header is None:
        return None
    if not (match := re.fullmatch(r'"(\d{1,15})"', header.strip(), re.ASCII)):
        raise InvalidRequest("a header is not valid", errors=[Offence("If-Match", 'send one version in quotes: "12"')])
    return int(match[1])


async def receive(request: Request, part: Path, max_bytes: int) -> str:
    """Writes the request's body to `part`; returns its hex digest.

    Raises:
        InvalidRequest: The digest is missing or malformed.
        TooLarge: The body has more than `max_bytes`.
        WeightsRejected: It is not what the sender digested.
    """
    declared = _declared_sha256(request)
    received = await write(limited_stream(request, max_bytes), part)
    if received != declared:
        raise WeightsRejected(
            "the body is not what the sender digested; send it again",
            errors=[Offence("Content-Digest", f"sha-256 of the received body is {received}")],
        )
    return received


async def write(chunks: AsyncIterator[bytes], part: Path) -> str:
    """Writes what arrives to `part`, off the event loop; returns its hex digest.

    While a thread hashes and writes one stretch, the next one arrives; it waits where it comes faster.
    """
    digest = hashlib.sha256()
    writing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    writing.set_result(None)
    pending: list[bytes] = []
    num_bytes = 0
    with part.open("r+b") as file:
        try:
            async for chunk in chunks:
                pending.append(chunk)
                num_bytes += len(chunk)
                if num_bytes >= WRITE_BYTES:
                    await writing
                    writing = asyncio.ensure_future(asyncio.to_thread(_write, file, digest, pending))
                    pending, num_bytes = [], 0
            await writing
            writing = asyncio.ensure_future(asyncio.to_thread(_write, file, digest, pending))
            await writing
        finally:
            await asyncio.wait({writing})  # nobody may close a file that a thread writes to
    return digest.hexdigest()


def _declared_sha256(request: Request) -> str:
    header = request.headers.get("content-digest")
    if header is None:
        raise InvalidRequest(
            "a push carries the digest of its body",
            errors=[Offence("Content-Digest", "send sha-256=:BASE64 OF THE BODY'S SHA-256:")],
        )
    return parse_content_digest(header)


def _write(file: IO[bytes], digest: hashlib._Hash, chunks: list[bytes]) -> None:
    for chunk in chunks:
        digest.update(chunk)
        file.write(chunk)
