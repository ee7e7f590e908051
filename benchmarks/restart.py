"""Kills the service, then the worker, with SIGKILL in the middle of full CartPole runs.

    python -m benchmarks.restart

Run A: a service on a fixed port is killed a third of the way and started again 20 s later.
Run B: the worker is killed half-way and started again with --resume.
Both must end with the same number of steps as an undisturbed run, and reach the same bar.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import results_file

AWAY_S = 20
LIMIT_S = 1_200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-restart"), help="where the runs are written")
    arguments = parser.parse_args()
    if arguments.runs.exists():
        parser.error(f"{arguments.runs} exists; remove it, or pass another --runs")
    results = {
        "seed": arguments.seed,
        "service_killed": _service_killed(arguments.seed, arguments.runs / "service-killed"),
        "worker_killed": _worker_killed(arguments.seed, arguments.runs / "worker-killed"),
    }
    print(results_file.write("restart", results).read_text())


def _service_killed(seed: int, run_dir: Path) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service = _start_service(port, run_dir.with_name("service-killed-weights"))
    worker = _start_worker(seed, run_dir, "--service-url", f"http://127.0.0.1:{port}")
    try:
        killed_at = _wait_for_step(run_dir, worker, 33_000)
        service.kill()
        service.wait()
        time.sleep(AWAY_S)
        service = _start_service(port, run_dir.with_name("service-killed-weights"))
        worker.wait(timeout=LIMIT_S)
    finally:
        worker.kill()
        service.terminate()
        service.wait(timeout=60)
    return {"killed_at_step": killed_at, "away_s": AWAY_S, **_outcome(run_dir, worker)}


def _worker_killed(seed: int, run_dir: Path) -> dict[str, Any]:
    worker = _start_worker(seed, run_dir)
    try:
        killed_at = _wait_for_step(run_dir, worker, 50_000)
        worker.kill()
        worker.wait()
        worker = _start_worker(seed, run_dir, "--resume")
        worker.wait(timeout=LIMIT_S)
    finally:
        worker.kill()
    return {"killed_at_step": killed_at, **_outcome(run_dir, worker)}


def _start_service(port: int, weights_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "service", "--port", str(port), "--weights-dir", str(weights_dir)]
    return subprocess.Popen([*command, "--exit-with-parent"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _start_worker(seed: int, run_dir: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "worker", "train", "--env-id", "CartPole-v1", "--seed", str(seed)]
    return subprocess.Popen([*command, "--run-dir", str(run_dir), *arguments])


def _wait_for_step(run_dir: Path, worker: subprocess.Popen[bytes], step: int) -> int:
    deadline = time.monotonic() + LIMIT_S
    while (reached := _last_step(run_dir)) < step:
        if worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the worker ended or stalled at step {reached}, before {step}")
        time.sleep(0.2)
    return reached


def _last_step(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def _outcome(run_dir: Path, worker: subprocess.Popen[bytes]) -> dict[str, Any]:
    if worker.returncode != 0:
        raise RuntimeError(f"the worker of {run_dir} ended with status {worker.returncode}")
    record = json.loads((run_dir / "run.json").read_text())
    return {"exit_status": worker.returncode, "steps": record["steps"], "evaluation": record["evaluation"]}


if __name__ == "__main__":
    main()
