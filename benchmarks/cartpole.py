"""Trains CartPole-v1 as `make train` does, once per seed, and tells how well.

    python -m benchmarks.cartpole --seeds 1 2 3 4 5

Each run is a worker with a service of its own; finished runs in the directory are taken as they are,
interrupted ones resumed. Returns are of 100 fresh episodes (seeds from
900,000), greedy; training never sees them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import results_file

FLOOR = 0.3
TRAIN = ("--env-id", "CartPole-v1", "--advantage-floor", str(FLOOR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-cartpole"), help="where the runs are written")
    arguments = parser.parse_args()
    results = [_train(seed, arguments.runs / f"seed{seed}") for seed in arguments.seeds]
    path = results_file.write("cartpole", {"env_id": "CartPole-v1", "runs": results})
    print(path.read_text())


def _train(seed: int, run_dir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "worker", "train", *TRAIN, "--seed", str(seed)]
    record_path = run_dir / "run.json"
    if not record_path.exists() or json.loads(record_path.read_text())["status"] != "finished":
        subprocess.run([*command, "--run-dir", str(run_dir), "--resume"], check=True)
    record = json.loads(record_path.read_text())
    if record["config"].get("advantage_floor") != FLOOR:
        raise SystemExit(f"{run_dir} was trained with other settings; remove it, or name another --runs")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "git_commit": record["git_commit"],
        "steps": record["steps"],
        "training_s": record["training_s"],
        "evaluation": record["evaluation"],
        "max_first_ratio_error": max(line["first_ratio_error"] for line in lines),
        "stale_transitions": sum(line["stale_transitions"] for line in lines),
    }


if __name__ == "__main__":
    main()
