"""`PUT /weights`: new weights arrive, are verified, kept and served, while the old ones answer.

    stream to disk, hash ─▶ digest, names, shapes, dtypes, finite ─▶ kept on disk ─▶ swap job
    event loop + a thread   a thread                                 a thread        inference thread

Only the last step touches the model, and it is a copy in memory. Whatever fails before it
leaves the old version serving, and no trace of the new one.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import IO

import structlog
from starlette.requests import Request

from hintwise import weights
from hintwise.digests import parse_content_digest
from hintwise.errors import (
    HintwiseError,
    InvalidRequest,
    Offence,
    PreconditionRequired,
    UnsupportedMediaType,
    VersionConflict,
    WeightsRejected,
)
from hintwise.language_model import LanguageModel
from hintwise.schemas import WeightsInfo
from service.bodies import limited_stream
from service.engine import Engine

log = structlog.get_logger("service")
WRITE_BYTES = 4 * 2**20


class WeightSwap:
    """Takes pushed weights, one push at a time.

    Args:
        engine: Whose policy is replaced.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._one_at_a_time = asyncio.Lock()

    async def put(self, request: Request) -> WeightsInfo:
        """Returns the new version once it serves.

        Raises:
            PreconditionRequired: No If-Match.
            VersionConflict: If-Match names another version than the one that serves.
            InvalidRequest: A header is malformed or missing.
            WeightsRejected: The body does not fit; the old version serves on.
            TooLarge: The body is larger than any that could fit.
        """
        try:
            return await self._put(request)
        except HintwiseError as error:
            self._engine.metrics.rejected_swaps.inc()
            log.warning("weights refused", detail=str(error), policy_version=self._engine.policy.policy_version)
            raise

    async def _put(self, request: Request) -> WeightsInfo:
        _check_content_type(request)
        wanted_version = _if_match(request)
        self._check_current(wanted_version)
        sha256 = _declared_sha256(request)
        part = self._engine.store.new_part()
        try:
            received = await _receive(request, part, self._engine.max_weights_bytes)
            if received != sha256:
                raise WeightsRejected(
                    "the body is not what the sender digested; send it again",
                    errors=[Offence("Content-Digest", f"sha-256 of the received body is {received}")],
                )
            async with self._one_at_a_time:
                self._check_current(wanted_version)  # another push may have won while this one arrived
                await self._serve(part, sha256)
        finally:
            part.unlink(missing_ok=True)
        return weights_info(self._engine)

    async def _serve(self, part: Path, sha256: str) -> None:
        engine, started = self._engine, time.perf_counter()
        await asyncio.to_thread(_check_metadata, part, engine.policy.language_model)
        state = await asyncio.to_thread(weights.read, part)
        await asyncio.to_thread(weights.check_fits, state, weights.state_of(engine.policy.policy))
        kept = await asyncio.to_thread(engine.store.add, part, sha256)
        version = kept.policy_version
        await engine.thread.run(lambda: engine.policy.swap(state, version))
        engine.serving = kept
        duration_s = time.perf_counter() - started
        engine.metrics.swaps.inc()
        engine.metrics.swap_seconds.observe(duration_s)
        engine.metrics.policy_version.set(version)
        log.info("swapped weights", policy_version=version, duration_ms=round(duration_s * 1e3, 1))

    def _check_current(self, wanted_version: int) -> None:
        current = self._engine.policy.policy_version
        if wanted_version != current:
            raise VersionConflict(
                f"version {current} serves now, not {wanted_version}; look at GET /weights and decide again",
                errors=[Offence("If-Match", f"names {wanted_version}, current is {current}")],
            )


def weights_info(engine: Engine) -> WeightsInfo:
    """Returns what serves now, as `GET /weights` shows it."""
    model, version = engine.policy.language_model, engine.serving
    return WeightsInfo(
        policy_version=version.policy_version,
        sha256=version.sha256,
        num_parameters=sum(parameter.numel() for parameter in engine.policy.policy.parameters()),
        architecture=model.architecture,
        tokenizer_sha256=model.tokenizer_sha256,
        retained_versions=engine.store.retained_versions,
        created_at=version.created_at,
        durable=True,
    )


def _check_metadata(part: Path, model: LanguageModel) -> None:
    """Raises `WeightsRejected` when the file says that it belongs to another kind of policy."""
    said = weights.read_metadata(part)
    wanted = {
        "hintwise.format": "full",
        "hintwise.architecture": model.architecture,
        "hintwise.tokenizer_sha256": model.tokenizer_sha256,
    }
    offences = [
        Offence(name, f"says {said[name]}, but this service takes {value}")
        for name, value in wanted.items()
        if name in said and said[name] != value
    ]
    if "hintwise.canary" in said:
        offences.append(Offence("hintwise.canary", "this version cannot check a canary; send the weights without one"))
    if offences:
        raise WeightsRejected("the weights were made for another policy", errors=offences)


def _check_content_type(request: Request) -> None:
    content_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if content_type != "application/octet-stream":
        raise UnsupportedMediaType(f"the body is {content_type}; send safetensors as application/octet-stream")


def _if_match(request: Request) -> int:
    """Returns the version the caller believes to be current."""
    header = request.headers.get("if-match")
    if header is None:
        raise PreconditionRequired(
            "a push names the version it replaces",
            errors=[Offence("If-Match", 'send If-Match: "N", N the policy_version of GET /weights')],
        )
    if not (match := re.fullmatch(r'"(\d{1,15})"', header.strip(), re.ASCII)):
        raise InvalidRequest("a header is not valid", errors=[Offence("If-Match", 'send one version in quotes: "12"')])
    return int(match[1])


def _declared_sha256(request: Request) -> str:
    header = request.headers.get("content-digest")
    if header is None:
        raise InvalidRequest(
            "a push carries the digest of its body",
            errors=[Offence("Content-Digest", "send sha-256=:BASE64 OF THE BODY'S SHA-256:")],
        )
    return parse_content_digest(header)


async def _receive(request: Request, part: Path, max_bytes: int) -> str:
    """Writes the body to `part` off the event loop; returns its hex digest."""
    digest = hashlib.sha256()
    with part.open("wb") as file:
        pending = bytearray()
        async for chunk in limited_stream(request, max_bytes):
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await asyncio.to_thread(_write, file, digest, bytes(pending))
                pending.clear()
        await asyncio.to_thread(_write, file, digest, bytes(pending))
    return digest.hexdigest()


def _write(file: IO[bytes], digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    file.write(data)
