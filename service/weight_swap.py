"""`PUT /weights` and `POST /weights/rollback`: other weights are verified, recorded and served.

    PUT       stream to a file, hash ─▶ verify ─▶ swap, canary, record ─▶ answer ─▶ flush
    rollback  kept file, hash        ─▶ verify ─▶ swap, canary, record ─▶ answer ─▶ flush
              event loop + thread       a thread  one job on the inference thread   flush thread

The job hands tensors over, scores the canary and writes one small file. It happens whole or not at
all, and the record always names what serves. Whatever fails, or is late, leaves the old version
serving and no trace of the new one. A kill loses nothing, since the system writes on; until the
flush, of which `durable` tells, a power cut may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import structlog
from starlette.requests import Request

from hintwise.errors import DeadlineExceeded, HintwiseError, Offence, VersionConflict, WeightsRejected
from hintwise.schemas import RollbackRequest, WeightsInfo, WeightsPath
from service.bodies import deadline_of, read_json
from service.engine import Engine
from service.weight_check import Verified, check_canary, serve, verify
from service.weight_path import chunks_of, open_allowed
from service.weight_record import Version
from service.weight_store import sha256_of_file
from service.weight_upload import JSON, content_type_of, if_match, receive, version_replaced, write

log = structlog.get_logger("service")
TOO_LATE = (
    "the request's time ran out before the new weights were ready, and nothing was changed; "
    "raise X-Request-Timeout-Ms, or send them again"
)


class WeightSwap:
    """Takes pushes and rollbacks, one change of weights at a time.

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
            InvalidRequest: A header is malformed or missing, or the path is not allowed.
            WeightsRejected: The weights do not fit; the old version serves on.
            Unavailable: They are an adapter, and the model that it changes can be read no more.
            TooLarge: They are larger than any that could fit.
            DeadlineExceeded: Time ran out before they served; the old version serves on.
        """
        try:
            with self._refusals_logged("weights refused"):
                async with self._time_limit(request) as limit:
                    return await self._put(request, limit)
        except HintwiseError:
            self._engine.metrics.rejected_swaps.inc()
            raise

    async def rollback(self, request: Request) -> WeightsInfo:
        """Returns the retained version that the body names, once it serves again.

        Raises:
            NotRetained: There is no such version; the message lists those there are.
            VersionConflict: If-Match is given and names another version than the one that serves.
            InvalidRequest: The body or a header is malformed.
            WeightsRejected: The kept file is damaged, or fits no more; the present version serves on.
            DeadlineExceeded: Time ran out before it served; the present version serves on.
        """
        with self._refusals_logged("rollback refused"):
            async with self._time_limit(request) as limit:
                return await self._rollback(request, limit)

    async def _put(self, request: Request, limit: asyncio.Timeout) -> WeightsInfo:
        engine, content_type, replaced = self._engine, content_type_of(request), version_replaced(request)
        self._check_current(replaced)
        part = engine.store.new_part()
        try:
            fetch = self._copy if content_type == JSON else receive
            sha256 = await fetch(request, part, engine.max_weights_bytes)
            async with self._one_at_a_time:
                self._check_current(replaced)  # another push may have won while this one arrived
                started = time.perf_counter()
                verified = await asyncio.to_thread(verify, part, engine.policy)
                with self._flush_afterwards():
                    await self._swap(verified, partial(engine.store.add, part, sha256), limit)
                    self._count_push(time.perf_counter() - started)
                    return weights_info(engine)
        finally:
            part.unlink(missing_ok=True)

    async def _rollback(self, request: Request, limit: asyncio.Timeout) -> WeightsInfo:
        engine, expected = self._engine, if_match(request)
        body = await read_json(request, RollbackRequest, max_bytes=engine.settings.max_body_bytes)
        async with self._one_at_a_time:
            if expected is not None:
                self._check_current(expected)
            before = engine.serving.policy_version
            if body.policy_version != before:
                kept = engine.store.version(body.policy_version)
                verified = await asyncio.to_thread(self._verify_kept, kept)
                with self._flush_afterwards():
                    await self._swap(verified, partial(engine.store.serve, kept.policy_version), limit)
                    engine.metrics.rollbacks.inc()
                    log.info("rolled back weights", policy_version=kept.policy_version, from_policy_version=before)
                    return weights_info(engine)
            return weights_info(engine)

    async def _copy(self, request: Request, part: Path, max_bytes: int) -> str:
        """Copies the file that the body names to `part`; returns its hex digest."""
        settings = self._engine.settings
        body = await read_json(request, WeightsPath, max_bytes=settings.max_body_bytes)
        with await asyncio.to_thread(open_allowed, body.path, settings.weights_path_directories) as file:
            return await write(chunks_of(file, max_bytes), part)

    def _verify_kept(self, kept: Version) -> Verified:
        path = self._engine.store.path_of(kept.policy_version)
        if sha256_of_file(path) != kept.sha256:
            raise WeightsRejected(
                f"the kept file of version {kept.policy_version} is damaged; choose another version",
                errors=[Offence("policy_version", f"sha-256 of the kept file is no longer {kept.sha256}")],
            )
        return verify(path, self._engine.policy)

    async def _swap(self, verified: Verified, record: Callable[[], Version], limit: asyncio.Timeout) -> None:
        """Serves verified weights and records them, both or neither.

        From here on the deadline decides only whether the job begins: one that has begun is waited
        for, so that a caller who is told that time ran out may rely on nothing having changed.
        """
        deadline = limit.when()
        limit.reschedule(None)
        await self._engine.thread.run(lambda: self._take_over(verified, record), deadline=deadline)

    def _take_over(self, verified: Verified, record: Callable[[], Version]) -> None:
        """Runs on the inference thread, between two batches."""
        engine = self._engine

        def commit() -> Version:
            if verified.question is not None:
                check_canary(verified.question, engine.policy)
            engine.serving = record()
            return engine.serving

        serve(verified, engine.policy, commit)
        engine.metrics.policy_version.set(engine.policy.policy_version)

    def _count_push(self, duration_s: float) -> None:
        metrics, version = self._engine.metrics, self._engine.policy.policy_version
        metrics.swaps.inc()
        metrics.swap_seconds.observe(duration_s)
        log.info("swapped weights", policy_version=version, duration_ms=round(duration_s * 1e3, 1))

    @contextmanager
    def _flush_afterwards(self) -> Iterator[None]:
        """Has what the block records flushed once the answer is made; also where its caller was cancelled."""
        try:
            yield
        finally:
            if not self._engine.store.durable:
                self._engine.flusher.request()

    @contextmanager
    def _refusals_logged(self, event: str) -> Iterator[None]:
        try:
            yield
        except HintwiseError as error:
            # Fields, not their messages: a canary's hold observations, which are never logged.
            fields = [offence.field for offence in error.errors]
            serving = self._engine.policy.policy_version
            log.warning(event, detail=error.detail, fields=fields, policy_version=serving)
            raise

    @asynccontextmanager
    async def _time_limit(self, request: Request) -> AsyncIterator[asyncio.Timeout]:
        """Ends the block with `DeadlineExceeded` when the request's time is over."""
        settings = self._engine.settings
        deadline = deadline_of(request, default_ms=settings.request_timeout_ms, max_ms=settings.max_request_timeout_ms)
        try:
            async with asyncio.timeout_at(deadline) as limit:
                yield limit
        except TimeoutError as error:
            raise DeadlineExceeded(TOO_LATE) from error

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
        architecture=engine.policy.policy.architecture,
        tokenizer_sha256=model.tokenizer_sha256,
        retained_versions=engine.store.retained_versions,
        created_at=version.created_at,
        durable=engine.store.durable,
    )
