"""One run of a sweep: `python -m worker train` as a child process, its log and its limits.

    start ──▶ runs ──▶ exits with 0, run.json says finished ──▶ finished
               │ └───▶ exits otherwise                      ──▶ failed, with the log's last lines
               │ stop asked for, or the time is over: SIGTERM; it saves and exits ──▶ stopped or timed out
               └ still there `STOP_TIMEOUT_S` later: SIGKILL                      ──▶ the same, not saved

It runs in a session of its own, so that Ctrl-C reaches the sweep alone and each run is asked once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.command_line import variable
from worker.config import TrainConfig
from worker.errors import CheckpointUnusable
from worker.experiments.experiment import PlannedRun
from worker.run_files import last_step, read_run

STOP_TIMEOUT_S = 60.0
"""More than a worker takes to the next boundary of an update, to save, and to stop its service."""
LOG = "train.log"
NUM_LOG_LINES = 5
SAVED_STATUS = 128 + signal.SIGTERM
"""With which `train` exits once it has been asked to stop and has saved."""
TRAIN = (sys.executable, "-m", "worker", "train")


@dataclass(frozen=True)
class Outcome:
    """How a child ended."""

    status: Literal["finished", "failed", "timed out", "stopped"]
    detail: str = ""
    seconds: float = 0.0  # that this process ran


class ChildRun:
    """A run that has been started.

    Args:
        run: What is run.
        timeout_s: How long this process may take.
        lock_fd: A file descriptor that the child keeps open: while it lives, the lock is held.
        command: What is started; the run's flags follow.
    """

    def __init__(self, run: PlannedRun, *, timeout_s: float, lock_fd: int, command: Sequence[str] = TRAIN) -> None:
        self.run = run
        self._begun = time.monotonic()
        self._timeout_s = timeout_s
        self._asked: Literal["timed out", "stopped"] | None = None
        self._kill_at = float("inf")
        self._killed = False
        resumed = run.run_dir.exists()
        run.run_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [*command, *run.flags, *(["--resume"] if resumed else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environ(),
                start_new_session=True,
                pass_fds=[lock_fd],
            )

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.run.run_dir / LOG

    def ask_to_stop(self) -> None:
        """Asks the run to save and end; `poll` tells when it has."""
        self._end("stopped")

    def poll(self) -> Outcome | None:
        """Returns how the run ended, None while it goes on; enforces its limits."""
        code, now = self._process.poll(), time.monotonic()
        if code is not None:
            return self._outcome(code, now - self._begun)
        if now - self._begun > self._timeout_s:
            self._end("timed out")
        if now > self._kill_at:
            self._killed = True
            self._process.kill()
        return None

    def _end(self, why: Literal["timed out", "stopped"]) -> None:
        if self._asked is None:  # a second SIGTERM would end it unsaved
            self._asked = why
            self._kill_at = time.monotonic() + STOP_TIMEOUT_S
            self._process.terminate()

    def _outcome(self, code: int, seconds: float) -> Outcome:
        if code == 0 and is_finished(self.run.run_dir):
            return Outcome("finished", seconds=seconds)
        if self._asked == "stopped" and code == SAVED_STATUS:
            return Outcome("stopped", "stopped and saved", seconds)
        detail = f"{self._ended(code)}; {self.log} ends with: {' | '.join(self._last_lines()) or '(nothing)'}"
        if self._asked == "timed out":
            return Outcome("timed out", f"asked to stop after {self._timeout_s:g} s; {detail}", seconds)
        return Outcome(self._asked or "failed", detail, seconds)

    def _ended(self, code: int) -> str:
        """Returns how the process ended, and what is left of a run that a signal gave no time to save."""
        if code >= 0:
            return f"exit status {code}"
        how = "killed" if code == -signal.SIGKILL else f"ended by {signal.Signals(-code).name}"
        late = f", since it did not stop within {STOP_TIMEOUT_S:g} s" if self._killed else ""
        step = last_step(self.run.run_dir)
        left = "it has no checkpoint" if step is None else f"its last checkpoint is of step {step:,}"
        return f"{how}{late}; {left}"

    def _last_lines(self) -> list[str]:
        """Returns the last lines that this process wrote, not those of one before it."""
        with self.log.open("rb") as log:
            log.seek(self._log_begin)
            text = log.read().decode(errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()][-NUM_LOG_LINES:]


def is_finished(run_dir: Path) -> bool:
    """Returns whether a run has been trained and evaluated to its end."""
    try:
        return read_run(run_dir).get("status") == "finished"
    except CheckpointUnusable:
        return False


def child_environ() -> dict[str, str]:
    """Returns the environment without variables that set what `train` is told by flags, or leaves at its default."""
    ignored = {variable(name) for name in TrainConfig.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ignored}
