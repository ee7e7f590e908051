"""Environment steps per second of short training runs through the real service, and where their time goes.

    python -m benchmarks.train
    python -m benchmarks.train --against COMMIT              this checkout and an older one, in turns
    python -m benchmarks.train --against-flags "--env-workers 0" --env-id benchmarks.slow_env:SlowCartPole-v0

Every run has the same seed and number of steps. The rate is wall time from the first update's line in
metrics.jsonl to the last one's, so that the start is left out and everything between updates is in.
A run is stopped after its last update: what follows, validation and evaluation, is no training.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import results_file

HERE = Path(__file__).parents[1]
LIMIT_S = 600
POLL_S = 0.01
PARTS = "rollout_s", "wait_s", "env_s", "learn_s", "push_s", "save_s", "other_s", "update_s"
"""An older commit has only some of them; its rollout_s holds its wait_s."""


@dataclass(frozen=True)
class Variant:
    """A checkout, and how it is run."""

    name: str
    checkout: Path
    flags: tuple[str, ...] = ()
    module: str = "worker"
    environ: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that worktree and workers end with it
    measured: dict[str, list[dict[str, float]]] = {}
    with _variants(arguments) as variants, tempfile.TemporaryDirectory(prefix="hintwise-train-") as runs:
        for number in range(arguments.rounds):
            for variant in variants if number % 2 == 0 else variants[::-1]:  # neither is always first
                run = measure(
                    variant,
                    Path(runs) / f"{variant.name}-{number}",
                    env_id=arguments.env_id,
                    seed=arguments.seed,
                    total_steps=arguments.total_steps,
                    steps_per_update=arguments.steps_per_update,
                )
                measured.setdefault(variant.name, []).append(run)
                print(variant.name, json.dumps(run), file=sys.stderr)
    print(results_file.write(arguments.name, _summary(arguments, variants, measured)).read_text())


def _summary(
    arguments: argparse.Namespace, variants: list[Variant], measured: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    medians = {
        name: {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        for name, runs in measured.items()
    }
    summary = {
        "env_id": arguments.env_id,
        "seed": arguments.seed,
        "total_steps": arguments.total_steps,
        "rounds": arguments.rounds,
        "flags": {variant.name: list(variant.flags) for variant in variants},
        "against_commit": arguments.against,
        "medians": medians,
        "runs": measured,
    }
    if len(variants) == 2:
        rates = [[run["steps_per_s"] for run in measured[variant.name]] for variant in variants]
        summary["steps_per_s_over_the_other"] = statistics.median(a / b for a, b in zip(*rates, strict=True))
    return summary


def measure(
    variant: Variant, run_dir: Path, *, env_id: str, seed: int, total_steps: int, steps_per_update: int
) -> dict[str, float]:
    """Returns the rate of one run, and the median seconds of each part of an update."""
    command = [sys.executable, "-m", variant.module, "train", "--env-id", env_id, "--seed", str(seed)]
    command += ["--total-steps", str(total_steps), "--run-dir", str(run_dir), *variant.flags]
    metrics = run_dir / "metrics.jsonl"
    with run_dir.with_suffix(".log").open("w") as log:
        worker = subprocess.Popen(
            command, cwd=variant.checkout, stdout=log, stderr=log, env={**os.environ, **variant.environ}
        )
        try:
            seen_s = _times_of_updates(metrics, worker, log.name, total_steps // steps_per_update)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(LIMIT_S)
    updates = [json.loads(line) for line in metrics.read_text().splitlines()][1:]
    steps = steps_per_update * len(updates)
    found = {part: statistics.median(update[part] for update in updates) for part in PARTS if part in updates[0]}
    return {"steps_per_s": steps / (seen_s[-1] - seen_s[0]), **found}


def _times_of_updates(metrics: Path, worker: subprocess.Popen[bytes], log: str, num_updates: int) -> list[float]:
    """Returns when each update's line appeared, by this process's clock."""
    begun, size = time.perf_counter(), -1
    seen_s: list[float] = []
    while len(seen_s) < num_updates:
        now = time.perf_counter()
        if worker.poll() is not None:
            raise SystemExit(f"the run ended with {worker.returncode}: {Path(log).read_text()[-2_000:]}")
        if now - begun > LIMIT_S:
            raise SystemExit(f"the run did not make {num_updates} updates within {LIMIT_S} s; see {log}")
        if metrics.exists() and metrics.stat().st_size != size:
            size = metrics.stat().st_size
            seen_s += [now] * (metrics.read_bytes().count(b"\n") - len(seen_s))
        time.sleep(POLL_S)
    return seen_s


@contextmanager
def _variants(arguments: argparse.Namespace) -> Iterator[list[Variant]]:
    """Yields what is compared; an older commit lies in a worktree that ends with the block."""
    flags = tuple(shlex.split(arguments.flags))
    now = Variant("now", HERE, flags)
    if arguments.against_flags is not None:
        yield [now, Variant("other-flags", HERE, tuple(shlex.split(arguments.against_flags)))]
    elif arguments.against is None:
        yield [now]
    else:
        with tempfile.TemporaryDirectory(prefix="hintwise-against-") as scratch:
            checkout = Path(scratch) / "checkout"
            _git("worktree", "add", "--detach", str(checkout), arguments.against)
            try:
                yield [now, Variant("before", checkout, flags)]
            finally:
                _git("worktree", "remove", "--force", str(checkout))


def _git(*command: str) -> None:
    subprocess.run(["git", "-C", str(HERE), *command], check=True, capture_output=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--against", metavar="COMMIT", help="compare with this commit, in turns")
    against.add_argument("--against-flags", metavar="FLAGS", help="compare with these flags, in turns")
    parser.add_argument("--flags", default="", help="flags of `worker train`, for every run that has no others")
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--total-steps", type=int, default=8_192)
    parser.add_argument("--steps-per-update", type=int, default=1_024, help="num_envs times num_steps of the flags")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="train", help="of the file in benchmarks/results")
    arguments = parser.parse_args()
    if arguments.total_steps < 3 * arguments.steps_per_update:
        parser.error("fewer than three updates: the first one is left out, and a rate needs two more")
    return arguments


if __name__ == "__main__":
    main()
