"""Environment steps to the bar: the pretrained trunk beside the same shape with random weights.

    python -m benchmarks.trunk [--seeds 1 2 3 4 5] [--env-id CartPole-v1 --env-id Acrobot-v1] [--max-steps 100000]

Both are trained by `worker train` with a head, the trunk's weights along with head and critic. The bar is the
environment's own `reward_threshold`; a run has reached it when the mean return of its last 100 sampled episodes
has, and is stopped there. The random weights are those that `worker pretrain` begins with. CartPole is in the corpus of
the pretrained one, Acrobot is not. Finished runs in the directory are taken as they are, and seed follows seed, so that
one that is interrupted leaves whole seeds. It counts steps and not seconds, so several runs may go on side by side
(`--jobs`).
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
from transformers import PreTrainedTokenizerFast

from benchmarks import results_file
from hintwise.model_names import LANGUAGE_DIR
from worker.learner import NUM_RECENT_EPISODES
from worker.pretraining.model import build_model

FLAGS = ["--readout", "head"]
"""A head begins with equal probabilities, phrases of several lengths do not: of Acrobot's, `wait` has nearly all from
the start, the entropy is 0.00, and nothing is learned with either trunk."""
LOOK_EVERY_S = 1.0
STOP_LIMIT_S = 120.0
MAX_RUN_S = 3_600.0


class Run(NamedTuple):
    """One training."""

    env_id: str
    trunk: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--env-id", action="append", help="CartPole-v1 and Acrobot-v1 unless named")
    parser.add_argument("--max-steps", type=int, default=100_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-trunk"), help="where the runs are written")
    arguments = parser.parse_args()
    env_ids = arguments.env_id or ["CartPole-v1", "Acrobot-v1"]
    models = {"pretrained": "embedded-language", "random": str(_random_model(arguments.runs / "random"))}
    runs = [Run(env_id, trunk, seed) for seed, env_id, trunk in product(arguments.seeds, env_ids, models)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        steps = list(pool.map(lambda run: _steps(run, models[run.trunk], arguments.runs, arguments.max_steps), runs))
    measured = {
        "flags": FLAGS,
        "max_steps": arguments.max_steps,
        "environments": [_summary(env_id, runs, steps) for env_id in env_ids],
    }
    print(results_file.write("trunk", measured).read_text())


def _random_model(directory: Path) -> Path:
    """Writes the pretrained model's shape with the weights that its training began with."""
    config = json.loads((LANGUAGE_DIR / "config.json").read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(LANGUAGE_DIR)
    build_model(tokenizer, layers=config["n_layer"], width=config["n_embd"], seed=1).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory.resolve()


def _steps(run: Run, model: str, runs: Path, max_steps: int) -> int | None:
    """Returns the steps after which a run had reached the bar; None where it had not when it ended."""
    directory = runs / "-".join(map(str, run))
    outcome, settings = directory / "outcome.json", {"flags": FLAGS, "max_steps": max_steps}
    if outcome.exists():
        kept = json.loads(outcome.read_text())
        steps: int | None = kept.pop("steps")
        if kept != settings:
            raise SystemExit(f"{directory} was run with {kept}, not {settings}; choose another --runs")
        return steps
    bar = gymnasium.spec(run.env_id).reward_threshold
    if bar is None:
        raise SystemExit(f"{run.env_id} has no reward_threshold, and so no bar")
    command = [sys.executable, "-m", "worker", "train", "--env-id", run.env_id, "--seed", str(run.seed)]
    command += [*FLAGS, "--model", model, "--total-steps", str(max_steps), "--run-dir", str(directory), "--resume"]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "output.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        reached = _watched(process, directory / "metrics.jsonl", bar)
    if reached is None and process.returncode != 0:
        raise RuntimeError(f"{run} failed; see {directory / 'output.log'}")
    outcome.write_text(json.dumps({**settings, "steps": reached}))
    print(f"{run}: {reached}", file=sys.stderr, flush=True)
    return reached


def _watched(process: subprocess.Popen[bytes], metrics: Path, bar: float) -> int | None:
    """Returns the steps at which a run reaches the bar, and stops it there."""
    until = time.monotonic() + MAX_RUN_S
    try:
        while process.poll() is None:
            if (steps := _first_above(metrics, bar)) is not None:
                process.send_signal(signal.SIGINT)
                process.wait(STOP_LIMIT_S)
                return steps
            if time.monotonic() > until:
                raise RuntimeError(f"the run that writes {metrics} has not ended after {MAX_RUN_S:g} s")
            time.sleep(LOOK_EVERY_S)
    finally:
        process.kill()  # nothing happens to one that has ended
    return _first_above(metrics, bar)


def _first_above(metrics: Path, bar: float) -> int | None:
    if not metrics.exists():
        return None
    num_episodes = 0
    for line in map(json.loads, (text for text in metrics.read_text().splitlines() if text.endswith("}"))):
        num_episodes += len(line["episodes"])
        if num_episodes >= NUM_RECENT_EPISODES and line["mean_return"] >= bar:  # the first to end are no fair sample
            return int(line["step"])
    return None


def _summary(env_id: str, runs: list[Run], steps: list[int | None]) -> dict[str, Any]:
    by_trunk: dict[str, Any] = {}
    for trunk in dict.fromkeys(run.trunk for run in runs):
        mine = {run.seed: n for run, n in zip(runs, steps, strict=True) if (run.env_id, run.trunk) == (env_id, trunk)}
        reached = [n for n in mine.values() if n is not None]
        median = statistics.median_high([n if n is not None else sys.maxsize for n in mine.values()])
        by_trunk[trunk] = {
            "steps_by_seed": mine,
            "reached": len(reached),
            "median_steps": median if median < sys.maxsize else None,
        }
    return {"env_id": env_id, "bar": gymnasium.spec(env_id).reward_threshold, **by_trunk}


if __name__ == "__main__":
    main()
