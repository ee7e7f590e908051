"""How far a run is, read from what it has written so far."""

from __future__ import annotations

import json

from worker.experiments.experiment import PlannedRun
from worker.run_files import METRICS

TAIL_BYTES = 65_536
"""Of metrics.jsonl: more than its longest line, less than hours of training."""


def progress_of(run: PlannedRun) -> str:
    """Returns the steps and the mean return that a run has reported last."""
    file = run.run_dir / METRICS
    if not file.exists():
        return "no update yet"
    with file.open("rb") as metrics:
        metrics.seek(max(0, file.stat().st_size - TAIL_BYTES))
        lines = metrics.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        try:
            last = json.loads(line)
            mean_return = last["mean_return"]
            told = "no episode yet" if mean_return is None else f"mean return {mean_return:.1f}"
            return f"{last['step']:,} of {run.config.total_steps:,} steps, {told}"
        except (ValueError, KeyError, TypeError):  # half a line, at either end
            continue
    return "no update yet"
