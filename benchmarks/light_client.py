"""A client that costs next to nothing: a blocking socket and requests whose bytes are made beforehand."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

ACTIONS = ("push left", "push right")
TASK = "Keep the pole upright."
LIMIT_S = 60


def random_observations(count: int, generator: random.Random) -> list[str]:
    """Returns CartPole descriptions with random numbers, so that no cache of texts helps anybody."""
    words = ("cart", "speed", "pole", "turn")
    return [" ".join(f"{word} {generator.randrange(41)}" for word in words) for _ in range(count)]


def act_request(
    port: int,
    observations: Sequence[str],
    *,
    actions: Sequence[str] = ACTIONS,
    task: str = TASK,
    seed: int | Sequence[int] = 1,
) -> bytes:
    """Returns `POST /act` as the bytes that cross the wire."""
    return post_request(port, "/act", {"observations": observations, "actions": actions, "task": task, "seed": seed})


def post_request(port: int, path: str, content: Mapping[str, Any]) -> bytes:
    """Returns a POST of JSON as the bytes that cross the wire."""
    body = json.dumps(content).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(port: int) -> socket.socket:
    """Returns a connection to loopback that sends at once."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def parsed_answer(received: bytes) -> bytes | None:
    """Returns the body of an answer; None while some of it has yet to come. Raises unless its status is 200."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the service answered {head.splitlines()[0].decode()}: {body.decode(errors='replace')}")
    length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
    return body if len(body) >= length else None


class LightClient:
    """One kept-alive connection.

    Args:
        port: Where the service listens on loopback.
    """

    def __init__(self, port: int) -> None:
        self._socket = connect(port)

    def send(self, request: bytes) -> bytes:
        """Returns the answer's body; raises unless its status is 200."""
        self._socket.sendall(request)
        received = self._receive()
        while (body := parsed_answer(received)) is None:
            received += self._receive()
        return body

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(2**18)
        if not data:
            raise RuntimeError("the service closed the connection")
        return data


def seconds_of_each(client: LightClient, requests: Sequence[bytes]) -> list[float]:
    """Returns how long each request took, one after another."""
    durations = []
    for request in requests:
        started = time.perf_counter()
        client.send(request)
        durations.append(time.perf_counter() - started)
    return durations
