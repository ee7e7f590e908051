"""Load over loopback from clients that cost next to nothing, and what they saw.

    few, large     each client a process with a blocking socket (`python -m benchmarks.http_load`)
    many, small    one process with non-blocking sockets, one request under way on each

Requests are made beforehand. The many clients' own processor time is measured, since it may be taken from
the service's.
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from benchmarks.light_client import LightClient, act_request, connect, parsed_answer, random_observations

START_LIMIT_S = 60
MAX_REQUESTS_PER_S = 150
"""More than any client here sends: each request has texts of its own."""
NUM_SMALL_REQUESTS = 20_000


class ManyClientsRate(NamedTuple):
    """What many clients saw together."""

    requests_per_s: float
    client_ms: float
    """Processor time the clients themselves took for each request, in milliseconds."""


def rate_of_few(port: int, seed: int, seconds: float, *, num_clients: int, size: int) -> float:
    """Returns observations answered per second while `num_clients` keep one request of `size` under way each."""
    command = [sys.executable, "-m", "benchmarks.http_load", str(port), str(seconds), str(size)]
    clients = [
        subprocess.Popen([*command, str(seed + i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for i in range(num_clients)
    ]
    try:
        for client in clients:  # all have made their requests before any sends one
            if not client.stdout or client.stdout.readline() != "ready\n":
                raise RuntimeError("a client did not start; its last words are above")
        for client in clients:
            if client.stdin:
                client.stdin.write("go\n")
                client.stdin.flush()
        return sum(float(client.communicate(timeout=START_LIMIT_S + seconds)[0]) for client in clients)
    finally:
        for client in clients:
            client.kill()


def rate_of_many(port: int, generator: random.Random, seconds: float, *, num_clients: int) -> ManyClientsRate:
    """Returns what `num_clients` saw that keep one request of one observation under way each."""
    requests = cycle([act_request(port, random_observations(1, generator)) for _ in range(NUM_SMALL_REQUESTS)])
    selector = selectors.DefaultSelector()
    connections = [_Connection(port) for _ in range(num_clients)]
    answered, worked = 0, time.process_time()
    started = time.perf_counter()
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(next(requests))
    while (elapsed := time.perf_counter() - started) < seconds:
        ready = selector.select(timeout=START_LIMIT_S)
        if not ready:
            raise RuntimeError(f"no answer for {START_LIMIT_S} s")
        for key, _ in ready:
            if key.data.answered():
                answered += 1
                key.data.send(next(requests))
    client_ms = (time.process_time() - worked) * 1e3 / answered
    selector.close()
    for connection in connections:
        connection.socket.close()
    return ManyClientsRate(answered / elapsed, client_ms)


class _Connection:
    """A kept-alive connection with one request under way."""

    def __init__(self, port: int) -> None:
        self.socket: socket.socket = connect(port)
        self._received = b""
        self.socket.setblocking(False)

    def send(self, request: bytes) -> None:
        self._received = b""
        self.socket.sendall(request)  # a request is far smaller than the socket's empty buffer

    def answered(self) -> bool:
        """Takes what has come; returns whether the answer is whole."""
        data = self.socket.recv(2**16)
        if not data:
            raise RuntimeError("the service closed the connection")
        self._received += data
        return parsed_answer(self._received) is not None


def _client(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="One client: waits for a line on stdin, then writes its rate.")
    for name, kind in {"port": int, "seconds": float, "size": int, "seed": int}.items():
        parser.add_argument(name, type=kind)
    chosen = parser.parse_args(arguments)
    generator = random.Random(chosen.seed)
    count = int(chosen.seconds * MAX_REQUESTS_PER_S)
    requests = [act_request(chosen.port, random_observations(chosen.size, generator)) for _ in range(count)]
    client = LightClient(chosen.port)
    print("ready", flush=True)
    sys.stdin.readline()
    started, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < chosen.seconds:
        client.send(requests[sent % len(requests)])
        sent += 1
    client.close()
    print(json.dumps(sent * chosen.size / elapsed), flush=True)


if __name__ == "__main__":
    _client(sys.argv[1:])
