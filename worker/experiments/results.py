"""What a sweep leaves beside its runs: what was planned, and a line for each run that finished.

runs/cartpole/experiment.json     the seeds and conditions
runs/cartpole/results.jsonl       one line per finished run
runs/cartpole/sweep.lock          held while a sweep, or a run it left behind, is at work
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.config import CHANGEABLE
from worker.errors import CheckpointUnusable, RunDirTaken, SweepUnderWay
from worker.experiments.experiment import Experiment, PlannedRun
from worker.run_files import RUN, read_run, write_whole

PLAN, RESULTS, LOCK = "experiment.json", "results.jsonl", "sweep.lock"
KEPT = (
    "evaluation",
    "evaluation_with_hints",
    "steps",
    "training_s",
    "wall_time_s",
    "git_commit",
    "packages",
    "model",
    "checkpoint",
)
"""What a line takes over from run.json."""
MAY_DIFFER = CHANGEABLE - {
    "total_steps",
    "model",
    "guidance_model",
    "readout",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_episodes",
    "eval_mode",
}
"""Settings that say nothing about what a run came to."""


@contextmanager
def held(directory: Path) -> Iterator[int]:
    """Holds an experiment's directory, and yields the file descriptor that holds it.

    Raises:
        SweepUnderWay: Somebody else holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise SweepUnderWay(
                f"{directory} is held by another sweep (process {lock.read().strip() or 'unknown'}), or by a run that "
                "one which was killed left behind; wait until it ends, or stop it"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock.fileno()


def write_plan(experiment: Experiment) -> None:
    """Writes what the experiment consists of, so that a report can name what is missing."""
    plan = {
        "experiment": experiment.name,
        "file": str(experiment.file),
        "seeds": experiment.seeds,
        "settings": experiment.settings,
        "conditions": experiment.conditions,
    }
    write_whole(experiment.directory / PLAN, json.dumps(plan, indent=2, default=str) + "\n")


def add_result(directory: Path, run: PlannedRun) -> dict[str, Any]:
    """Records a finished run in results.jsonl, in place of what was recorded of it before, and returns the line."""
    record = read_run(run.run_dir)
    line = {
        "path": str(run.run_dir),
        "experiment": run.experiment,
        "condition": run.condition,
        "seed": run.seed,
        "command": ["python", "-m", "worker", "train", *run.flags],
        **{name: record.get(name) for name in KEPT},
    }
    kept = [other for other in read_results(directory) if other["path"] != line["path"]]
    write_whole(directory / RESULTS, "".join(f"{json.dumps(each)}\n" for each in [*kept, line]))
    return line


def read_results(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines of results.jsonl; none where there is no such file."""
    file = directory / RESULTS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def check_same_settings(run: PlannedRun) -> None:
    """Raises where the run's directory holds a run with other settings: skipping or resuming it would mix them.

    Raises:
        RunDirTaken: Naming the settings that differ.
    """
    if not (run.run_dir / RUN).exists():
        return
    try:
        was = run.config.recorded(read_run(run.run_dir)["config"])
    except (CheckpointUnusable, KeyError) as error:
        raise RunDirTaken(f"{run.run_dir / RUN} cannot be read: {error}; remove the directory") from error
    now = run.config.model_dump(mode="json")
    differing = [
        f"{name} (was {was[name]!r}, now {now[name]!r})"
        for name in now.keys() & was.keys() - MAY_DIFFER
        if was[name] != now[name]
    ]
    if differing:
        raise RunDirTaken(
            f"{run.run_dir} holds a run with other settings: {', '.join(sorted(differing))}; "
            "give the condition another name, choose another --runs-dir, or remove the directory"
        )
