"""A client that costs next to nothing: a blocking socket and requests whose bytes are made beforehand."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Sequence

ACTIONS = ("push left", "push right")
TASK = "Keep the pole upright."


def random_observations(count: int, generator: random.Random) -> list[str]:
    """Returns CartPole descriptions with random numbers, so that no cache of texts helps anybody."""
    words = ("cart", "speed", "pole", "turn")
    return [" ".join(f"{word} {generator.randrange(41)}" for word in words) for _ in range(count)]


def act_request(port: int, observations: Sequence[str]) -> bytes:
    """Returns `POST /act` as the bytes that cross the wire."""
    body = json.dumps({"observations": observations, "actions": ACTIONS, "task": TASK, "seed": 1}).encode()
    head = (
        f"POST /act HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class LightClient:
    """One kept-alive connection.

    Args:
        port: Where the service listens on loopback.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> bytes:
        """Returns the answer's body; raises unless its status is 200."""
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the service answered {head.splitlines()[0].decode()}: {body.decode(errors='replace')}")
        length = next(
            int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length")
        )
        parts = [body]
        missing = length - len(body)
        while missing > 0:
            parts.append(self._receive())
            missing -= len(parts[-1])
        return b"".join(parts)

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
