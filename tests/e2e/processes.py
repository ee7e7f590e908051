"""Real processes on real sockets, which end with the test that started them."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.forked import ROOT, Forked

Process = Forked | subprocess.Popen
FEW = ("--eval-episodes", 8)
"""For runs whose evaluation says nothing."""
CARTPOLE = ("--env-id", "CartPole-v1", *FEW)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_service(weights_dir: Path, *arguments: str, start: type[Process] = Forked) -> tuple[Process, str]:
    """A service that listens, and its address."""
    flags = ("--exit-with-parent", "--num-threads", "1")  # not measured: another test computes meanwhile
    command = [sys.executable, "-m", "service", "--weights-dir", str(weights_dir), *flags, *arguments]
    process = start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()  # empty, not endless, when the process dies
    assert line.startswith("listening on "), f"the service did not start: {line!r}, status {process.poll()}"
    return process, line.removeprefix("listening on ").strip()


@contextmanager
def running_service(weights_dir: Path, *arguments: str, start: type[Process] = Forked) -> Iterator[str]:
    """The address of a service that stops at the end of the block."""
    process, url = start_service(weights_dir, *arguments, start=start)
    try:
        yield url
    finally:
        stop(process)


def stop(process: Process) -> None:
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)
    _close_pipes(process)


def kill(process: Process) -> None:
    """kill -9, and nothing left behind."""
    process.kill()
    process.wait(timeout=30)
    _close_pipes(process)


def _close_pipes(process: Process) -> None:
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def worker_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "worker", *map(str, arguments)]


def run(
    command: list[str],
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    timeout_s: float = 240,
    start: type[Process] = Forked,
) -> subprocess.CompletedProcess[str]:
    """What a command said when it ended."""
    process = start(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException:
        kill(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_worker(
    *arguments: object, timeout_s: float = 240, start: type[Process] = Forked
) -> subprocess.CompletedProcess[str]:
    """What the worker said when it ended."""
    return run(worker_command(*arguments), timeout_s=timeout_s, start=start)


def policy_version(url: str) -> int:
    return int(httpx.get(f"{url}/weights", timeout=10).json()["policy_version"])
