"""Finds the runs that a report is about, and those it lacks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from worker.errors import CheckpointUnusable, NothingToReport, UsageError
from worker.experiments.results import PLAN
from worker.run_files import RUN, read_run

SEED_DIR = re.compile(r"seed-(\d+)")
SEED_SUFFIX = re.compile(r"(^|-)seed-?\d+$")


@dataclass(frozen=True)
class FinishedRun:
    """A run with an evaluation."""

    condition: str
    seed: int
    path: Path
    record: dict[str, Any]  # run.json

    @property
    def env_id(self) -> str:
        """Environment that it was trained and evaluated in."""
        return str(self.record["config"]["env_id"])

    @property
    def steps(self) -> int:
        """Environment steps that it was trained for."""
        return int(self.record["steps"])

    def score(self, name: str, *, with_hints: bool = False) -> float | None:
        """Returns a number of its evaluation; None where the environment has no such number, or no hints were shown."""
        evaluation = self.record.get("evaluation_with_hints" if with_hints else "evaluation") or {}
        value = evaluation.get(name)
        return None if value is None else float(value)


class Lacking(NamedTuple):
    """A run that has come to nothing yet."""

    condition: str
    path: Path
    why: str


class Place(NamedTuple):
    """Where a run is, or ought to be."""

    condition: str
    path: Path


def find_runs(run_dirs: Sequence[Path]) -> tuple[list[FinishedRun], list[Lacking]]:
    """Returns the finished runs of some directories, and those that are missing or unfinished.

    Args:
        run_dirs: Directories of experiments, whose plan says what belongs to them, or of single runs. With more than
            one experiment a condition is named `<experiment>/<condition>`.

    Raises:
        UsageError: A directory is neither.
        NothingToReport: No run has finished.
    """
    finished: list[FinishedRun] = []
    lacking: list[Lacking] = []
    several = sum(not (directory / RUN).exists() for directory in run_dirs) > 1
    places = {place.path.resolve(): place for directory in run_dirs for place in _places(directory, several)}
    for place in places.values():
        run = _read(place)
        finished.append(run) if isinstance(run, FinishedRun) else lacking.append(run)
    if not finished:
        raise NothingToReport(
            f"none of {len(lacking)} runs has finished: " + "; ".join(f"{each.path}: {each.why}" for each in lacking)
        )
    return finished, lacking


def _places(directory: Path, several: bool) -> Iterator[Place]:
    if (directory / RUN).exists():
        whole = directory.resolve()
        yield Place(SEED_SUFFIX.sub("", whole.name) or whole.parent.name, directory)
        return
    found = [path for path in sorted(directory.glob("*/seed-*"), key=_order) if SEED_DIR.fullmatch(path.name)]
    paths = list(dict.fromkeys([*_planned(directory), *found]))
    if not paths:
        raise UsageError(f"{directory} holds neither a run nor an experiment; `sweep` and `train` write them")
    prefix = f"{directory.resolve().name}/" if several else ""
    for path in paths:
        yield Place(f"{prefix}{path.parent.name}", path)


def _planned(directory: Path) -> list[Path]:
    """Returns the runs that the sweep which wrote the directory was to make, by condition."""
    file = directory / PLAN
    if not file.exists():
        return []
    try:
        plan = json.loads(file.read_text())
        return [directory / name / f"seed-{seed}" for name in plan["conditions"] for seed in plan["seeds"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no plan of an experiment: {error!r}; run the sweep again") from error


def _order(path: Path) -> tuple[str, int]:
    found = SEED_DIR.fullmatch(path.name)
    return path.parent.name, int(found.group(1)) if found else 0


def _read(place: Place) -> FinishedRun | Lacking:
    condition, path = place
    if not (path / RUN).exists():
        return Lacking(condition, path, "missing: it was never begun")
    try:
        record = read_run(path)
    except CheckpointUnusable as error:
        return Lacking(condition, path, str(error))
    if record.get("status") != "finished":
        steps = f"{record.get('steps', 0):,} of {record['config']['total_steps']:,} steps"
        reason = f" ({record['reason']})" if record.get("reason") else ""
        return Lacking(condition, path, f"unfinished: {record.get('status')} after {steps}{reason}")
    return FinishedRun(condition, int(record["seed"]), path, record)
