"""The HTTP protocol: httptools' own, whose answer to bytes that are no HTTP is a problem as well."""

from __future__ import annotations

from collections.abc import Callable

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hintwise.errors import MalformedRequest
from service.problems import problem
from service.request_context import fresh_id

log = structlog.get_logger("service")


def protocol(policy_version: Callable[[], int]) -> type[HttpToolsProtocol]:
    """Returns a protocol for uvicorn.

    Args:
        policy_version: Gives the version that serves.
    """

    class Protocol(HttpToolsProtocol):
        def send_400_response(self, msg: str) -> None:
            request_id = fresh_id()
            log.info("malformed HTTP", request_id=request_id, status=MalformedRequest.status)
            answer = problem(MalformedRequest(f"the request is not HTTP/1.1: {msg.rstrip('.').lower()}"))
            answer.headers["X-Request-Id"] = request_id
            answer.headers["X-Policy-Version"] = str(policy_version())
            answer.headers["Connection"] = "close"
            head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
            self.transport.close()

    return Protocol
