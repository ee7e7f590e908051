"""A service of the worker's own: a child process on a free loopback port.

    start ──▶ "listening on http://..." ──▶ answers ──▶ stop: SIGTERM, then SIGKILL
                                              │
                                 died? `revive` starts it again: same port, same weights

The child runs in a session of its own, so that Ctrl-C reaches the worker alone and the service
is still there for the last update.
"""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urlsplit

from worker.command_line import variable
from worker.config import TrainConfig
from worker.errors import LocalServiceFailed

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
MAX_RESTARTS = 5
NUM_LOG_LINES = 5
LISTENING = re.compile(r"listening on (http://\S+)")
NUM_THREADS = "1"
"""The other cores are for gradients, and for other runs of a sweep."""
NOT_INHERITED = {"HINTWISE_TOKENS_FILE", "HINTWISE_HEAD_ACTIONS", "HINTWISE_HEAD_ENV_ID"}
"""The child answers this worker alone, on loopback: it needs no access tokens, and reads actions as the run does."""


class LocalService:
    """Starts `python -m service` and stops it on the way out.

    Args:
        model: Name of the language model.
        guidance_model: Name of the model that writes hints; None: the service's default.
        device: Where its models run: cpu, cuda, cuda:N.
        weights_dir: Where the service keeps versions across restarts.
        log_path: Where its output goes.
        head_actions: What its policy's head answers for; None: it scores phrases.
        module: Python module to run as the service.

    Raises:
        LocalServiceFailed: It ended or stayed silent before it listened; the message ends with its log's last lines.
    """

    def __init__(
        self,
        *,
        model: str,
        weights_dir: Path,
        log_path: Path,
        guidance_model: str | None = None,
        device: str = "cpu",
        head_actions: Sequence[str] | None = None,
        module: str = "service",
    ) -> None:
        self._command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--model", model]
        self._command += ["--weights-dir", str(weights_dir), "--exit-with-parent"]
        self._command += ["--device", device, "--num-threads", NUM_THREADS]
        self._command += ["--readout", "phrase" if head_actions is None else "head"]
        if guidance_model is not None:
            self._command += ["--guidance", guidance_model]
        if head_actions is not None:
            self._command += ["--head-actions", json.dumps(list(head_actions))]
        self._log_path = log_path
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self.num_restarts = 0
        self.url = ""

    def __enter__(self) -> Self:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._start(port=0)
            self.url = self._await_url()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def revive(self) -> bool:
        """Starts the service again if it has died, and returns whether it had; does not wait for it to listen.

        Raises:
            LocalServiceFailed: It has died too often.
        """
        if self._process is None or self._process.poll() is None:
            return False
        if self.num_restarts == MAX_RESTARTS:
            raise LocalServiceFailed(f"the service died {MAX_RESTARTS + 1} times; {self._log_tail()}")
        self.num_restarts += 1
        self._start(port=urlsplit(self.url).port or 0)
        return True

    def stop(self) -> None:
        """Ends the service: politely, then not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _start(self, *, port: int) -> None:
        with self._log_path.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [*self._command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_inherited(),
                start_new_session=True,
            )
        assert self._process.stdout is not None  # noqa: S101 (asked for above)
        threading.Thread(target=self._read_output, args=(self._process.stdout,), daemon=True).start()

    def _read_output(self, stdout: IO[str]) -> None:
        """Copies standard output to the log, for an unread pipe would block the service."""
        with stdout, self._log_path.open("a") as log:
            for line in stdout:
                log.write(line)
                log.flush()
                self._lines.put(line)
        self._lines.put("")  # the end

    def _await_url(self) -> str:
        try:
            while line := self._lines.get(timeout=START_TIMEOUT_S):
                if found := LISTENING.search(line):
                    return found.group(1)
        except queue.Empty:
            raise LocalServiceFailed(
                f"the service did not listen within {START_TIMEOUT_S:.0f} s; {self._log_tail()}"
            ) from None
        raise LocalServiceFailed(f"the service ended before it listened; {self._log_tail()}")

    def _log_tail(self) -> str:
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        return f"{self._log_path} ends with: {' | '.join(lines[-NUM_LOG_LINES:]) or '(nothing)'}"


def _inherited() -> dict[str, str]:
    """Returns the environment without settings of a run: HINTWISE_GUIDANCE=both is `train`'s, to a service a model."""
    not_inherited = NOT_INHERITED | {variable(name) for name in TrainConfig.model_fields}
    return {name: value for name, value in os.environ.items() if name not in not_inherited}
