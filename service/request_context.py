"""Around every request: an id, a time, a count, the headers every answer carries.

Pure ASGI: Starlette's BaseHTTPMiddleware would hide a client's disconnect from the handlers.
"""

from __future__ import annotations

import asyncio
import random
import re
import secrets
import time
from collections.abc import Callable

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hintwise.errors import Unavailable
from service.bodies import header_of
from service.endpoints import endpoints_at
from service.inference_thread import STOPPING
from service.metrics import Metrics
from service.problems import problem, unforeseen

log = structlog.get_logger("service")
CLIENT_LEFT = 499
"""nginx's word for a caller that hung up; nobody reads it, the metrics count it."""
COUNTED_STATUS = "hintwise.counted_status"
_ids = random.Random(secrets.randbits(128))
ACCEPTED_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class RequestContext:
    """Adds `X-Request-Id` and `X-Policy-Version` to answers and log lines, counts and times requests.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        policy_version: Gives the version that serves, 0 while none does.
        stopping: Whether what is cancelled now is cancelled because the process ends.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        policy_version: Callable[[], int],
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._policy_version = policy_version
        self._stopping = stopping
        self._counted: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status, version = 0, self._policy_version()

        async def send_with_headers(message: Message) -> None:
            nonlocal status, version
            if message["type"] == "http.response.start":
                status = message["status"]
                version = _add_headers(message, request_id, self._policy_version())
            await send(message)

        structlog.contextvars.clear_contextvars()  # of another request in this task
        structlog.contextvars.bind_contextvars(request_id=request_id, policy_version=version)
        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if status or not self._stopping():
                raise
            await problem(Unavailable(STOPPING))(scope, receive, send_with_headers)
        except Exception as error:
            if status:
                raise  # the answer has begun: nothing can be taken back
            await unforeseen(scope["path"], error)(scope, receive, send_with_headers)
        finally:
            self._count(scope, scope.get(COUNTED_STATUS, status), version, time.perf_counter() - started)
            structlog.contextvars.clear_contextvars()

    def _count(self, scope: Scope, status: int, version: int, duration_s: float) -> None:
        listed = endpoints_at(scope["path"])
        endpoint = listed[0].template if listed else "other"  # never the raw path: strangers would make series
        count, seconds = self._counted.get((endpoint, status)) or self._series(endpoint, status)
        count.inc()
        seconds.observe(duration_s)
        log.debug(
            "request",
            method=scope["method"],
            endpoint=endpoint,
            status=status,
            policy_version=version,  # the one that answered; the other lines have the one that served at the start
            duration_ms=duration_s * 1e3,
        )

    def _series(self, endpoint: str, status: int) -> tuple[Counter, Histogram]:
        """Returns where such requests are counted and timed; looking series up by their labels costs more than that."""
        series = (
            self._metrics.requests.labels(endpoint, status or "gone"),
            self._metrics.request_seconds.labels(endpoint),
        )
        self._counted[endpoint, status] = series
        return series


def count_as(scope: Scope, status: int) -> None:
    """Has the metrics count a request as `status`: how a stream ended, whose status line said 200 long before."""
    scope[COUNTED_STATUS] = status


def fresh_id() -> str:
    """Returns 16 hex digits that no other request of this process, and hardly one of another, has.

    Not from the operating system: asking it gives Python's lock away, and the model's thread takes it.
    """
    return f"{_ids.getrandbits(64):016x}"


def _request_id(scope: Scope) -> str:
    """Returns the caller's id when it is harmless in logs and headers, else a fresh one."""
    given = header_of(scope, b"x-request-id")
    return given if given is not None and ACCEPTED_ID.fullmatch(given) else fresh_id()


def _add_headers(message: Message, request_id: str, serving: int) -> int:
    """Adds the headers of every answer, and returns the version it names: its own, or the one that serves."""
    headers = message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode("ascii"))]
    if not serving:
        return 0
    named = next((value for name, value in headers if name == b"x-policy-version"), None)
    if named is not None:
        return int(named)
    headers.append((b"x-policy-version", b"%d" % serving))
    return serving
