"""Writes report.md, report.json and curves.png about many runs.

directories ──▶ runs (what is there, what is lacking) ──▶ groups (IQM, interval, curve) ──▶ Markdown, JSON, picture
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from worker.experiment_config import ReportConfig
from worker.reporting.curves import draw_curves
from worker.reporting.groups import Group, across_environments, group_runs, warnings_about
from worker.reporting.interquartile import CONFIDENCE, NUM_RESAMPLES
from worker.reporting.markdown import document, table
from worker.reporting.runs import FinishedRun, Lacking, find_runs
from worker.run_files import write_whole

KEPT = "evaluation", "evaluation_with_hints", "steps", "wall_time_s", "git_commit", "packages"
"""Of run.json."""
DOCUMENT, DATA, PICTURE = "report.md", "report.json", "curves.png"


def report(config: ReportConfig) -> None:
    """Writes the report, and prints its table and where it is.

    Raises:
        UsageError: A directory holds no runs.
        NothingToReport: No run has finished.
    """
    runs, lacking = find_runs(config.run_dirs)
    groups = group_runs(runs)
    warnings = warnings_about(runs, groups)
    groups += across_environments(runs)
    out = config.out or config.run_dirs[0]
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_curves(groups, out / PICTURE)
    whole = document(groups, runs, lacking, warnings, PICTURE if drawn else None)
    write_whole(out / DOCUMENT, whole)
    write_whole(out / DATA, json.dumps(_data(groups, runs, lacking, warnings), indent=2) + "\n")
    for each in lacking:
        print(f"left out: {each.path}: {each.why}", file=sys.stderr)  # noqa: T201
    print(table(groups))  # noqa: T201
    print("\n".join(str(out / name) for name in (DOCUMENT, DATA, *([PICTURE] if drawn else []))))  # noqa: T201


def _data(groups: list[Group], runs: list[FinishedRun], lacking: list[Lacking], warnings: list[str]) -> dict[str, Any]:
    return {
        "statistic": "interquartile mean over runs",
        "interval": {"method": "stratified bootstrap, percentile", "level": CONFIDENCE, "resamples": NUM_RESAMPLES},
        "conditions": [asdict(group) for group in groups],
        "runs": [_run(run) for run in runs],
        "lacking": [{"condition": each.condition, "path": str(each.path), "why": each.why} for each in lacking],
        "warnings": warnings,
    }


def _run(run: FinishedRun) -> dict[str, Any]:
    kept = {name: run.record.get(name) for name in KEPT}
    return {"condition": run.condition, "seed": run.seed, "path": str(run.path), "env_id": run.env_id, **kept}
