"""Services under measurement, each a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

STOP_LIMIT_S = 60


@contextmanager
def running_service(model: str, *, settings: Mapping[str, str] | None = None) -> Iterator[int]:
    """Runs the service with fresh weights; yields its port.

    Args:
        model: The policy's language model.
        settings: More of the service's settings, as environment variables.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = ["service", "--model", model, "--weights-dir", directory, "--exit-with-parent"]
        with _running(command, settings or {}) as port:
            yield port


@contextmanager
def running_naive_service(model: str, *flags: str, module: str = "naive_service") -> Iterator[int]:
    """Runs a naive service of this directory; yields its port."""
    with _running([f"benchmarks.{module}", "--model", model, *flags], {}) as port:
        yield port


@contextmanager
def _running(module: Sequence[str], settings: Mapping[str, str]) -> Iterator[int]:
    command = [sys.executable, "-m", *module]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings})
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError(f"`{' '.join(command)}` did not start; its last words are above")
        yield int(line.rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(timeout=STOP_LIMIT_S)
