"""`python -m service` as a test watches it: its first line, its log, its metrics and its end."""

import os
import signal
import socket
import subprocess
import sys

import httpx

from tests.e2e.connection import PATIENCE_S
from tests.e2e.forked import ROOT, Forked

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("HINTWISE_")}


class Process:
    """A service of one's own; `stop` must find it healthy to the end."""

    def __init__(self, directory, *flags, start=Forked):
        directory.mkdir(exist_ok=True)
        self.weights_dir = directory / "weights"
        self.log = directory / "stderr"
        with self.log.open("wb") as log:
            fixed = ("--port", "0", "--weights-dir", str(self.weights_dir), "--num-threads", "1")
            self.popen = start(
                [sys.executable, "-m", "service", *fixed, *flags],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.first_line = self.popen.stdout.readline()
        assert self.first_line.startswith("listening on "), self.log.read_text()
        self.url = self.first_line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def metric(self, series):
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} ")), 0.0)

    def stop(self, signal_number=signal.SIGTERM):
        """Ends the process in order, and checks what it left on stdout and stderr."""
        self.popen.send_signal(signal_number)
        assert self.popen.wait(PATIENCE_S) == 0
        assert self.popen.stdout.read() == ""
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()
