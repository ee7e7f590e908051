"""`subprocess.Popen` for this interpreter with `-m` or `-c`, which the fork server starts in a fraction of the time."""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from tests.e2e.fork_server import ADDRESS

ROOT = Path(__file__).parents[2]
ENVIRON = dict(os.environ)
"""As it was before any test changed it."""
END_TIMEOUT_S = 60


@cache
def _address() -> str:
    """Where the fork server listens; starts it unless this process is a fork of it."""
    if ADDRESS in os.environ:
        return os.environ[ADDRESS]
    directory = tempfile.TemporaryDirectory(prefix="hintwise-tests-")
    address = str(Path(directory.name) / "forks")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        command = [sys.executable, "-m", "tests.e2e.fork_server", str(listener.fileno())]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=ENVIRON,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )

    def close() -> None:
        server.stdin.close()
        try:
            server.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        directory.cleanup()

    atexit.register(close)
    return address


class Forked:
    """A process of its own, by pid; what tests use of `subprocess.Popen`, and what the worker does.

    Its parent is the fork server, which gave it its hash seed and has printed what imports print. What is about these,
    or about the memory of a process, starts a process of its own; so does one test of each kind.
    """

    def __init__(
        self,
        command: list[str],
        *,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
        stdout: int | IO | None = None,
        stderr: int | IO | None = None,
        text: bool = True,
        start_new_session: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        assert command[0] == sys.executable, command
        assert command[1] in {"-m", "-c"}, command
        self.args, self.returncode, self.stdin = command, None, None
        theirs: list[int] = [os.open(os.devnull, os.O_RDONLY)]
        self.stdout = _output(stdout, 1, theirs, text=text)
        self.stderr = _output(stderr, 2, theirs, text=text)
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        asked = {
            "command": command,
            "cwd": str(cwd or Path.cwd()),
            "environ": {**(os.environ if env is None else env), ADDRESS: _address()},
            "new_session": start_new_session,
            "inherited": [0, 1, 2, *pass_fds],
        }
        line = json.dumps(asked).encode() + b"\n"
        sent = socket.send_fds(self._connection, [line], [*theirs, *pass_fds])
        self._connection.sendall(line[sent:])
        for descriptor in theirs:
            os.close(descriptor)
        self._numbers = self._connection.makefile("r")
        self.pid = self._told()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = self._told()
            self._numbers.close()
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote until it ended, to standard output and error."""
        deadline = None if timeout is None else time.monotonic() + timeout
        said: dict[IO, str] = {}
        readers = [
            threading.Thread(target=lambda pipe=pipe: said.update({pipe: pipe.read()}), daemon=True)
            for pipe in (self.stdout, self.stderr)
            if pipe
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        for pipe in (self.stdout, self.stderr):
            if pipe:
                pipe.close()
        return said.get(self.stdout, ""), said.get(self.stderr, "")

    def _told(self) -> int:
        line = self._numbers.readline()
        if not line:
            raise ConnectionError("the fork server has ended; what it printed says why")
        return int(line)

    def send_signal(self, number: int) -> None:
        with suppress(ConnectionError):
            self.poll()
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _output(asked: int | IO | None, standard: int, theirs: list[int], *, text: bool) -> IO | None:
    """Adds the descriptor that the process writes to, and returns the end that is read here, if any."""
    if asked == subprocess.PIPE:
        reading, writing = os.pipe()
        theirs.append(writing)
        return os.fdopen(reading, "r" if text else "rb")
    if asked == subprocess.DEVNULL:
        theirs.append(os.open(os.devnull, os.O_WRONLY))
    elif asked == subprocess.STDOUT:
        theirs.append(os.dup(theirs[1]))
    else:
        theirs.append(os.dup(standard if asked is None else asked if isinstance(asked, int) else asked.fileno()))
    return None
