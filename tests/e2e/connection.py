"""HTTP by hand: what a well-behaved client would not send, and what it would not show."""

import json
import re
import socket
import struct
import time

import httpx

PATIENCE_S = 60
"""After which a test gives up waiting for what it waits for."""
SMALL = {"observations": ["größer"], "actions": ["push left", "push right"]}
DISTINCT = [f"cart {n % 41} pole {n // 41}" for n in range(256)]
ENDLESS = {"observations": DISTINCT, "num_hints": 8, "max_new_tokens": 256, "temperature": 100, "stream": True}
"""Half a minute of writing: no two prompts are alike, and words drawn as blindly go on for some hundred a hint."""


class Connection:
    """One connection of a caller who writes HTTP by hand."""

    def __init__(self, url, *, receive_bytes=None):
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(("127.0.0.1", httpx.URL(url).port))
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.reader.close()
        self.socket.close()

    def send_head(self, method, path, **headers):
        lines = [f"{method} {path} HTTP/1.1", "Host: service", "X-Request-Timeout-Ms: 600000"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send_json(self, path, body):
        data = json.dumps(body).encode()
        self.send_head("POST", path, content_length=len(data))
        self.socket.sendall(data)

    def send_chunk(self, data):
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def read_head(self):
        """Returns the status and the headers of the next answer, a provisional one included."""
        status = int(self.reader.readline().split()[1])
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(self.reader.readline, b"\r\n"))
        return status, headers

    def read_answer(self):
        status, headers = self.read_head()
        return status, json.loads(self.reader.read(int(headers["content-length"]))), headers

    def chunks(self):
        """Yields the chunks of a body as they arrive."""
        while size := int(self.reader.readline(), 16):
            yield self.reader.read(size)
            assert self.reader.readline() == b"\r\n"
        assert self.reader.readline() == b"\r\n"

    def hang_up(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.reader.close()
        self.socket.close()


def is_ready(url):
    return httpx.get(f"{url}/readyz", timeout=PATIENCE_S).status_code == 200


def metric(url, series):
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} ")), 0.0)


def until(condition, message):
    """Returns once `condition` holds; a process without an event for it can only be asked."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, message
        time.sleep(0.005)


def events_in(data):
    """Returns name and data of whole events."""
    assert re.fullmatch(rb"(event: [a-z]+\ndata: [^\n]+\n\n)+", data)
    lines = [block.split("\n") for block in data.decode().removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(told.removeprefix("data: "))) for name, told in lines]
