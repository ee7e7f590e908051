"""One kept-alive connection for one caller, where a general HTTP client costs more than the answer's parsing.

    handle_request:  connect or reuse ──▶ send ──▶ `while_waiting()` ──▶ read the whole answer

Plain HTTP/1.1 to one address, one request at a time, no proxy and no streaming: what a worker
needs that asks its service hundreds of times a second. Between sending and reading nothing is
left to do here, so the caller may do something of its own, in the same thread.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

import httpx

MAX_HEAD_BYTES = 65_536
MAX_IDLE_S = 4.0
"""A connection unused for longer is not trusted: servers close theirs after about five seconds, and one that is
being closed would lose a request."""
READ_BYTES = 262_144
Headers = list[tuple[bytes, bytes]]


class DirectTransport(httpx.BaseTransport):
    """Carries requests to one service; give it to `Client(transport=...)`.

    Args:
        while_waiting: Called whenever a request is on its way and its answer has not been read. It must
            not use the client; what it raises ends the call.
    """

    def __init__(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        self._while_waiting = while_waiting
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._address: tuple[str, int] | None = None
        self._received = bytearray()
        self._used_s = 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            try:
                return self._exchange(request)
            except BaseException:  # an answer that is still to come must not be taken for the next one's
                self._drop()
                raise

    def close(self) -> None:
        self._drop()

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions.get("timeout", {})
        connection = self._connected(request.url, timeouts.get("connect"))
        body = request.read()
        unsent = _send(connection, _head(request, body), body, timeouts.get("write"))
        if unsent is None:
            self._while_waiting()
        connection.settimeout(timeouts.get("read"))
        try:
            status, reason, headers = self._read_head(connection)
        except httpx.NetworkError as error:  # a service that refuses a large body answers before it has read it
            raise (unsent or error) from error
        content, keep = self._read_body(connection, status, headers, request.method)
        if not keep or unsent is not None:
            self._drop()
        self._used_s = monotonic()
        extensions = {"http_version": b"HTTP/1.1", "reason_phrase": reason}
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content), extensions=extensions)

    def _connected(self, url: httpx.URL, timeout_s: float | None) -> socket.socket:
        if url.scheme != "http":
            raise httpx.UnsupportedProtocol(f"a direct connection speaks plain HTTP, not {url.scheme}")
        address = url.host, url.port or 80
        if self._socket is not None:
            fresh = address == self._address and monotonic() - self._used_s < MAX_IDLE_S
            if fresh and not select.select([self._socket], [], [], 0)[0]:
                return self._socket
            self._drop()  # readable before anything was asked: the other side has closed it
        with _as_httpx(httpx.ConnectTimeout, httpx.ConnectError):
            made = socket.create_connection(address, timeout_s)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._address = made, address
        return made

    def _drop(self) -> None:
        self._received.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read_head(self, connection: socket.socket) -> tuple[int, bytes, Headers]:
        """Returns status, reason and headers of the answer; a 1xx before it is passed over."""
        while True:
            lines = self._until(connection, b"\r\n\r\n").split(b"\r\n")
            version, _, rest = lines[0].partition(b" ")
            code, _, reason = rest.partition(b" ")
            fields = [line.partition(b":") for line in lines[1:]]
            if not version.startswith(b"HTTP/1.") or not code.isdigit() or not all(colon for _, colon, _ in fields):
                raise httpx.RemoteProtocolError("the answer is not HTTP/1.1")
            if int(code) >= 200:
                return int(code), reason, [(name.lower(), value.strip()) for name, _, value in fields]

    def _read_body(self, connection: socket.socket, status: int, headers: Headers, method: str) -> tuple[bytes, bool]:
        """Returns the body, and whether the connection can carry another request."""
        named = dict(headers)
        keep = named.get(b"connection", b"").lower() != b"close"
        if method == "HEAD" or status in {204, 304}:
            return b"", keep
        if named.get(b"transfer-encoding", b"").lower() == b"chunked":
            return b"".join(self._chunks(connection)), keep
        length = named.get(b"content-length")
        if length is None:
            return self._until_closed(connection), False
        if not length.isdigit():
            raise httpx.RemoteProtocolError("the answer's Content-Length is no number")
        return self._exactly(connection, int(length)), keep

    def _chunks(self, connection: socket.socket) -> Iterator[bytes]:
        while True:
            size_text = self._until(connection, b"\r\n").partition(b";")[0]
            try:
                size = int(size_text, 16)
            except ValueError:
                raise httpx.RemoteProtocolError("the answer has a chunk without a size") from None
            if size == 0:
                while self._until(connection, b"\r\n"):  # trailers, then an empty line
                    pass
                return
            yield self._exactly(connection, size)
            self._until(connection, b"\r\n")

    def _until(self, connection: socket.socket, end: bytes) -> bytes:
        while (at := self._received.find(end)) < 0:
            if len(self._received) > MAX_HEAD_BYTES:
                raise httpx.RemoteProtocolError(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes")
            self._received += _receive(connection)
        found = bytes(self._received[:at])
        del self._received[: at + len(end)]
        return found

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        while len(self._received) < size:
            self._received += _receive(connection)
        found = bytes(self._received[:size])
        del self._received[:size]
        return found

    def _until_closed(self, connection: socket.socket) -> bytes:
        with _as_httpx(httpx.ReadTimeout, httpx.ReadError):
            while data := connection.recv(READ_BYTES):
                self._received += data
        return bytes(self._received)


def _head(request: httpx.Request, body: bytes) -> bytes:
    """Returns the request line and headers; the body is sent whole, so that its length is known."""
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [
        b"%s: %s" % (name, value)
        for name, value in request.headers.raw
        if name.lower() not in {b"transfer-encoding", b"content-length"}
    ]
    if body or request.method not in {"GET", "HEAD"}:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""])


def _send(connection: socket.socket, head: bytes, body: bytes, timeout_s: float | None) -> httpx.WriteError | None:
    """Sends a request; returns why it could not be sent whole, for there may be an answer all the same."""
    connection.settimeout(timeout_s)
    try:
        with _as_httpx(httpx.WriteTimeout, httpx.WriteError):
            if len(body) < READ_BYTES:
                connection.sendall(head + body)
            else:
                connection.sendall(head)
                connection.sendall(body)
    except httpx.WriteError as error:
        return error
    return None


def _receive(connection: socket.socket) -> bytes:
    with _as_httpx(httpx.ReadTimeout, httpx.ReadError):
        data = connection.recv(READ_BYTES)
    if not data:
        raise httpx.ReadError("the service closed the connection before its answer was whole")
    return data


@contextmanager
def _as_httpx(timed_out: type[httpx.TimeoutException], failed: type[httpx.NetworkError]) -> Iterator[None]:
    """Raises what a socket raises as the exceptions that the client knows."""
    try:
        yield
    except TimeoutError as error:
        raise timed_out(str(error)) from error
    except OSError as error:
        raise failed(str(error)) from error
