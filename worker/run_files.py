"""Reads and writes the files of a run directory without loading anything slow: no torch, no TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hintwise.disk import sync
from worker.errors import CheckpointUnusable

METRICS = "metrics.jsonl"
RUN = "run.json"
CHECKPOINTS_DIR = "checkpoints"
STEP = "step-"
"""What the name of a whole checkpoint begins with; the environment steps behind it follow."""


def read_run(run_dir: Path) -> dict[str, Any]:
    """Returns a run's run.json.

    Raises:
        CheckpointUnusable: There is no run in the directory.
    """
    try:
        run: dict[str, Any] = json.loads((run_dir / RUN).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointUnusable(f"{run_dir} holds no run that can be read: {error}") from error
    return run


def read_metrics(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of metrics.jsonl; a last line that a killed run left half written is left out."""
    path = run_dir / METRICS
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def last_step(run_dir: Path) -> int | None:
    """Returns how many environment steps are behind a run's last checkpoint; None where it has none."""
    steps = [path.name.removeprefix(STEP) for path in (run_dir / CHECKPOINTS_DIR).glob(f"{STEP}*")]
    return max((int(step) for step in steps if step.isdecimal()), default=None)


def write_whole(path: Path, text: str) -> None:
    """Replaces a file, so that no reader ever sees half of it; once it returns, a power cut leaves the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    sync(part)
    part.replace(path)
    sync(path.parent)
