"""Around every request: an id, a time, a count, the headers every answer carries.

Pure ASGI: Starlette's BaseHTTPMiddleware would hide a client's disconnect from the handlers.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hintwise.errors import Unavailable
from service.endpoints import endpoints_at
from service.inference_thread import STOPPING
from service.metrics import Metrics
from service.problems import problem, unforeseen

log = structlog.get_logger("service")
CLIENT_LEFT = 499
"""nginx's word for a caller that hung up; nobody reads it, the metrics count it."""
COUNTED_STATUS = "hintwise.counted_status"
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
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if version := self._policy_version():
                    version = int(headers.setdefault("X-Policy-Version", str(version)))
            await send(message)

        structlog.contextvars.clear_contextvars()  # of another request in this task
        with structlog.contextvars.bound_contextvars(request_id=request_id, policy_version=version):
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

    def _count(self, scope: Scope, status: int, version: int, duration_s: float) -> None:
        listed = endpoints_at(scope["path"])
        endpoint = listed[0].template if listed else "other"  # never the raw path: strangers would make series
        self._metrics.requests.labels(endpoint, status or "gone").inc()
        self._metrics.request_seconds.labels(endpoint).observe(duration_s)
        log.debug(
            "request",
            method=scope["method"],
            endpoint=endpoint,
            status=status,
            policy_version=version,  # the one that answered; the other lines have the one that served at the start
            duration_ms=duration_s * 1e3,
        )


def count_as(scope: Scope, status: int) -> None:
    """Has the metrics count a request as `status`: how a stream ended, whose status line said 200 long before."""
    scope[COUNTED_STATUS] = status


def _request_id(scope: Scope) -> str:
    """Returns the caller's id when it is harmless in logs and headers, else a fresh one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if ACCEPTED_ID.fullmatch(given) else secrets.token_hex(8)
