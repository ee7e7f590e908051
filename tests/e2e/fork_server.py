"""Starts the commands of tests as forks of a process that has imported what is slow to import.

A test and this process speak over one Unix connection per command:

    test:    the command, its directory and environment as JSON, with the descriptors that it is to inherit
    server:  its pid; when it has ended, its exit status, negative for a signal
    test:    goes away: the command gets SIGTERM

A fork then runs what `python -m` or `python -c` would. When this process's standard input ends, so do it and the forks.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace

PRELOADED = (
    "matplotlib.pyplot",
    "minigrid",
    "peft",
    "service.app",
    "service.logs",
    "torch.utils.tensorboard",
    "transformers.models.gpt2.modeling_gpt2",
    "worker.evaluate",
    "worker.experiments.sweep",
    "worker.train",
)
ADDRESS = "FORK_SERVER_OF_TESTS"
"""Environment variable: where a fork finds this process, for what it starts itself."""
MAX_REQUEST_BYTES = 1_000_000
REQUEST_TIMEOUT_S = 10
MAX_DESCRIPTORS = 8
UNUSED_DESCRIPTOR = 100
"""Beyond those that a fork is asked to have, and those that it was born with."""


class Asked:
    """A command that was asked for, and its process.

    Raises:
        OSError: Whoever asks went away, or takes too long to say what.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_TIMEOUT_S)
        line, descriptors, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
        while not line.endswith(b"\n"):
            more = connection.recv(MAX_REQUEST_BYTES)
            if not more:
                raise ConnectionError("a test went away in the middle of a command")
            line += more
        connection.settimeout(None)
        asked = json.loads(line)
        self.command: list[str] = asked["command"]
        self.cwd: str = asked["cwd"]
        self.environ: dict[str, str] = asked["environ"]
        self.new_session: bool = asked["new_session"]
        self.inherited: list[int] = asked["inherited"]  # what number each descriptor is to have
        self.descriptors = descriptors
        self.connection = connection
        self.pid = 0

    def tell(self, number: int) -> None:
        with suppress(OSError):  # nobody waits for it any more
            self.connection.sendall(b"%d\n" % number)


class ForkServer:
    """Forks for whoever asks."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._ended, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._running: dict[int, Asked] = {}
        self._selector = selectors.DefaultSelector()
        for waited in (sys.stdin.fileno(), listener, self._ended):
            self._selector.register(waited, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)

    def serve(self) -> Asked | None:
        """Returns None at the end, and in a fork what it is to run."""
        try:
            return self._serve()
        finally:
            for pid in self._running:  # of which a fork has none
                os.kill(pid, signal.SIGTERM)

    def _serve(self) -> Asked | None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == sys.stdin.fileno():
                    return None
                if key.fileobj is self._ended:
                    self._reap()
                elif key.fileobj is self._listener:
                    if to_run := self._fork():
                        return to_run
                elif key.data.pid in self._running:  # a test has closed its connection
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data.pid, signal.SIGTERM)

    def _fork(self) -> Asked | None:
        connection, _ = self._listener.accept()
        try:
            asked = Asked(connection)
        except OSError:
            connection.close()
            return None
        asked.pid = os.fork()
        if not asked.pid:
            signal.set_wakeup_fd(-1)
            connections = [other.connection for other in self._running.values()]
            self._running.clear()
            for inherited in (
                self._selector,
                self._listener,
                self._ended,
                self._wakeup,
                asked.connection,
                *connections,
            ):
                inherited.close()
            return asked
        for descriptor in asked.descriptors:
            os.close(descriptor)
        asked.tell(asked.pid)
        self._running[asked.pid] = asked
        self._selector.register(asked.connection, selectors.EVENT_READ, asked)
        return None

    def _reap(self) -> None:
        self._ended.recv(MAX_REQUEST_BYTES)
        for pid, asked in list(self._running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del self._running[pid]
                asked.tell(os.waitstatus_to_exitcode(status))
                with suppress(KeyError):  # the test was gone before
                    self._selector.unregister(asked.connection)
                asked.connection.close()


def run(asked: Asked) -> None:
    """Becomes, in a fork, what the command would be."""
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked.new_session:
        os.setsid()
    received = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, UNUSED_DESCRIPTOR) for descriptor in asked.descriptors]
    for descriptor in asked.descriptors:
        os.close(descriptor)
    for descriptor, number in zip(received, asked.inherited, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked.environ)
    os.chdir(asked.cwd)
    sys.path[0] = asked.cwd
    sys.path[1:1] = [each for each in asked.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.modules.pop("service", None)  # it reads its parent's pid when it is imported
    _, flag, what, *arguments = asked.command
    sys.argv = [what if flag == "-m" else flag, *arguments]
    if flag == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 (a test's own code)
        return
    if what == "worker":
        _fork_what_a_worker_starts()
    runpy.run_module(what, run_name="__main__", alter_sys=True)


def _fork_what_a_worker_starts() -> None:
    from tests.e2e.forked import Forked
    from worker import local_service
    from worker.experiments import child_run

    local_service.subprocess = child_run.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Forked})


def _load_a_model() -> None:
    """Does what the first load of a process does once, as the compiling of transformers' patterns."""
    import torch

    from hintwise.language_model import load_language_model

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # others would not live on in a fork, and it would wait for them
    load_language_model("embedded")
    torch.set_num_threads(num_threads)


def main() -> None:
    """`python -m tests.e2e.fork_server DESCRIPTOR`, that of a socket that listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; this process ends with them
    listener = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()  # in the forks it would touch, and so copy, all that they share
    for module in PRELOADED:
        with suppress(ImportError):  # an extra that is not installed
            import_module(module)
    _load_a_model()
    gc.freeze()
    if asked := ForkServer(listener).serve():
        run(asked)


if __name__ == "__main__":
    main()
