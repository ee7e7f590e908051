"""Reads and writes the files of a run directory without loading anything slow: no torch, no TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.errors import CheckpointUnusable

METRICS = "metrics.jsonl"
RUN = "run.json"


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


def write_whole(path: Path, text: str) -> None:
    """Replaces a file, so that no reader ever sees half of it, and a power cut leaves one of the two."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    flush(part)
    part.replace(path)


def flush(path: Path) -> None:
    """Waits until a file's bytes, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
