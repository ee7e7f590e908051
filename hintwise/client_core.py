"""The client without its sockets: each call is a generator, and a driver does what it yields.

    call ──httpx.Request──▶ driver ──▶ service        call ──seconds──▶ driver sleeps
     ▲                        │
     └── answer or httpx error┘                       call ──return──▶ the caller's answer

`Client` and `AsyncClient` differ in their driver alone. What to send, what an answer means,
whether to try again and how long to wait first is decided here, once.

| an attempt ends in                              | then                                            |
| ----------------------------------------------- | ----------------------------------------------- |
| 2xx                                             | the answer is parsed and returned               |
| 429, 503                                        | retried, after Retry-After where it is given    |
| no connection, a lost one, no answer in time    | retried, after 0.1 s doubling to 2 s, jittered  |
| anything else                                   | raised                                          |
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import lru_cache
from os import PathLike, fspath
from time import monotonic
from typing import Any, TypeAlias, TypeVar

import httpx

from hintwise.client_address import find_token, find_url
from hintwise.client_answers import Answer, error_of, parsed
from hintwise.digests import content_digest, sha256_of
from hintwise.errors import (
    DeadlineExceeded,
    HintwiseError,
    Overloaded,
    ServiceUnreachable,
    Unavailable,
    VersionConflict,
)
from hintwise.large_body import PIECE_BYTES, LargeBody
from hintwise.request_body import to_body
from hintwise.schemas import (
    ActRequest,
    ActResponse,
    GuidanceRequest,
    GuidanceResponse,
    RewardItem,
    RewardRequest,
    RewardResponse,
    RollbackRequest,
    ServiceInfo,
    WeightsInfo,
    WeightsPath,
)

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
MAX_READY_BACKOFF_S = 0.25
"""A probe is cheap and somebody waits for the start, so it is asked more often than a busy service."""
MIN_RETRY_TIMEOUT_S = 0.1
"""A retry at the very end of the budget still gets this long, or it could not succeed."""
ANSWER_GRACE_S = 0.25
"""How much longer than the service the socket waits, so that the service's own 504 arrives first."""
UNLIMITED = httpx.Limits()
"""Connections: the service bounds what it takes on; a second limit here would look like a slow service."""
RETRIED_STATUSES = frozenset({Overloaded.status, Unavailable.status})

T = TypeVar("T")
Call: TypeAlias = Generator[httpx.Request | float, Any, T]
"""Yields a request and receives its response or `httpx.RequestError`; yields seconds and receives None."""
OnWait: TypeAlias = Callable[[HintwiseError, float], None]


class Wire:
    """Every endpoint as a call to be driven.

    Args:
        base_url: Where the service is; None reads `HINTWISE_URL`.
        token: Sent as a bearer token; None reads `HINTWISE_TOKEN`, then the file `HINTWISE_TOKEN_FILE`.
        timeout_s: Seconds one attempt may take.
        retry_s: Seconds after which a call makes no further attempt.
        on_wait: Called with the failure and the seconds since the call began, before each wait.

    Raises:
        ValueError: An argument or a variable is not usable; the message never shows a token.
    """

    def __init__(
        self, base_url: str | None, token: str | None, *, timeout_s: float, retry_s: float, on_wait: OnWait | None
    ) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s is {timeout_s}; it must be a positive number of seconds")
        if not retry_s >= 0:
            raise ValueError(f"retry_s is {retry_s}; it must be 0 or more seconds")
        self.base_url = find_url(base_url)
        self._timeout_s, self._retry_s, self._on_wait = timeout_s, retry_s, on_wait
        self._headers = {"Accept": "application/json, */*", "User-Agent": "hintwise"}
        if token := find_token(token):
            self._headers["Authorization"] = f"Bearer {token}"

    def act(self, **fields: object) -> Call[ActResponse]:
        return self._post("/act", to_body(ActRequest, fields), ActResponse)

    def guidance(self, **fields: object) -> Call[GuidanceResponse]:
        return self._post("/guidance", to_body(GuidanceRequest, fields), GuidanceResponse)

    def stream_guidance(self, **fields: object) -> Call[httpx.Response]:
        body = to_body(GuidanceRequest, {**fields, "stream": True})
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/problem+json"}
        return (yield from self._exchange(self._patience(), "POST", "/guidance", body, headers))

    def reward(self, items: Iterable[RewardItem | Mapping[str, object]], **fields: object) -> Call[RewardResponse]:
        plain = [item.model_dump(exclude_unset=True) if isinstance(item, RewardItem) else dict(item) for item in items]
        return self._post("/reward", to_body(RewardRequest, {"items": plain, **fields}), RewardResponse)

    def info(self) -> Call[ServiceInfo]:
        response = yield from self._exchange(self._patience(), "GET", "/info")
        return parsed(response, ServiceInfo)

    def weights(self, patience: Patience | None = None) -> Call[WeightsInfo]:
        response = yield from self._exchange(patience or self._patience(), "GET", "/weights")
        return parsed(response, WeightsInfo)

    def put_weights(self, data: bytes, *, if_match: int) -> Call[WeightsInfo]:
        sha256, patience = sha256_of(data), self._patience()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Digest": content_digest(sha256),
            "If-Match": f'"{if_match}"',
        }
        try:
            response = yield from self._exchange(patience, "PUT", "/weights", data, headers)
        except VersionConflict:
            if patience.num_attempts > 1:  # an attempt before this one may have arrived, and its answer been lost
                served = yield from self.weights(patience)
                if served.sha256 == sha256:
                    return served
            raise
        return parsed(response, WeightsInfo)

    def put_weights_from(self, path: str | PathLike[str], *, if_match: int) -> Call[WeightsInfo]:
        body = to_body(WeightsPath, {"path": fspath(path)})
        headers = {"Content-Type": "application/json", "If-Match": f'"{if_match}"'}
        response = yield from self._exchange(self._patience(), "PUT", "/weights", body, headers)
        return parsed(response, WeightsInfo)

    def rollback(self, policy_version: int, *, if_match: int | None = None) -> Call[WeightsInfo]:
        body, patience = to_body(RollbackRequest, {"policy_version": policy_version}), self._patience()
        headers = {"Content-Type": "application/json"} | ({} if if_match is None else {"If-Match": f'"{if_match}"'})
        try:
            response = yield from self._exchange(patience, "POST", "/weights/rollback", body, headers)
        except VersionConflict:
            if patience.num_attempts > 1:  # as with a push
                served = yield from self.weights(patience)
                if served.policy_version == policy_version:
                    return served
            raise
        return parsed(response, WeightsInfo)

    def download_weights(self, policy_version: int, *, as_pushed: bool) -> Call[bytes]:
        form = "?format=pushed" if as_pushed else ""  # not sent for nothing: an older service knows no forms
        response = yield from self._exchange(self._patience(), "GET", f"/weights/{policy_version}{form}")
        return response.content

    def is_ready(self) -> Call[bool]:
        try:
            yield from self._exchange(Patience(self._timeout_s, retry_s=0), "GET", "/readyz")
        except HintwiseError:
            return False
        return True

    def wait_until_ready(self, timeout_s: float) -> Call[None]:
        patience = Patience(min(self._timeout_s, timeout_s), timeout_s, max_backoff_s=MAX_READY_BACKOFF_S)
        yield from self._exchange(patience, "GET", "/readyz")

    def _post(self, path: str, body: bytes, answer: type[Answer]) -> Call[Answer]:
        headers = {"Content-Type": "application/json"}
        response = yield from self._exchange(self._patience(), "POST", path, body, headers)
        return parsed(response, answer)

    def _patience(self) -> Patience:
        return Patience(self._timeout_s, self._retry_s)

    def _exchange(
        self,
        patience: Patience,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[httpx.Response]:
        """Returns the first good answer; raises the last error once there is no time for another attempt."""
        while True:
            timeout_s = patience.next_timeout_s()
            outcome = yield self._request(method, path, body, headers, timeout_s)
            if isinstance(outcome, httpx.Response):
                if outcome.is_success:
                    return outcome
                error, cause = error_of(outcome), None
                retried = outcome.status_code in RETRIED_STATUSES
            else:
                error, cause, retried = self._lost(outcome, timeout_s, patience.waited_s), outcome, True
            if not retried or (wait_s := patience.next_wait_s(error.retry_after_s)) is None:
                raise error from cause
            if self._on_wait:
                self._on_wait(error, patience.waited_s)
            yield wait_s

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, timeout_s: float
    ) -> httpx.Request:
        timeout_ms = str(max(1, math.floor(timeout_s * 1e3)))
        timeout = {"connect": timeout_s, "write": timeout_s, "pool": timeout_s, "read": timeout_s + ANSWER_GRACE_S}
        url, sent = _url(self.base_url, path), {**self._headers, **(headers or {}), "X-Request-Timeout-Ms": timeout_ms}
        if body is None or len(body) <= PIECE_BYTES:
            return httpx.Request(method, url, headers=sent, content=body, extensions={"timeout": timeout})
        sent |= {"Host": url.netloc.decode(), "Content-Length": str(len(body))}  # httpx adds them for `content` alone
        return httpx.Request(method, url, headers=sent, stream=LargeBody(body), extensions={"timeout": timeout})

    def _lost(self, error: httpx.RequestError, timeout_s: float, waited_s: float) -> HintwiseError:
        """Returns what an attempt without an answer means."""
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return DeadlineExceeded(
                f"{self.base_url} gave no answer within {timeout_s:.3g} s (waited {waited_s:.0f} s); "
                "ask for less at once, or raise timeout_s"
            )
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".") or type(error).__name__
        return ServiceUnreachable(
            f"no service answers at {self.base_url} (waited {waited_s:.0f} s): {reason}; "
            "start one with `python -m service`, or say where it is: --service-url or HINTWISE_URL"
        )


class Patience:
    """How long one call may take: each attempt, and all of them with the waits in between.

    Args:
        timeout_s: Seconds one attempt may take.
        retry_s: Seconds after which no further attempt begins; 0 makes the first the only one.
        max_backoff_s: Longest wait that the service did not ask for.
    """

    def __init__(self, timeout_s: float, retry_s: float, *, max_backoff_s: float = MAX_BACKOFF_S) -> None:
        self.num_attempts = 0
        self._timeout_s, self._retry_s, self._max_backoff_s = timeout_s, retry_s, max_backoff_s
        self._backoff_s = FIRST_BACKOFF_S
        self._begun_s = monotonic()

    @property
    def waited_s(self) -> float:
        """Seconds since the call began."""
        return monotonic() - self._begun_s

    def next_timeout_s(self) -> float:
        """Counts an attempt and returns what it may take: all of `timeout_s` at first, then what is left."""
        self.num_attempts += 1
        if self.num_attempts == 1:
            return self._timeout_s
        return min(self._timeout_s, max(MIN_RETRY_TIMEOUT_S, self._retry_s - self.waited_s))

    def next_wait_s(self, retry_after_s: float | None) -> float | None:
        """Returns the seconds to wait before the next attempt; None where it would begin too late."""
        wait_s = retry_after_s or random.uniform(0.0, self._backoff_s)
        self._backoff_s = min(2 * self._backoff_s, self._max_backoff_s)
        return wait_s if self.waited_s + wait_s < self._retry_s else None


@lru_cache
def _url(base_url: str, path: str) -> httpx.URL:
    return httpx.URL(base_url + path)
