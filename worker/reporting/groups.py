"""What a report says of each condition: scores over its seeds, and its learning curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from worker.plot import WINDOW, running_mean
from worker.reporting.interquartile import Floats, interquartile_mean, interval
from worker.reporting.runs import FinishedRun
from worker.run_files import read_metrics

NUM_POINTS = 100
NUM_CURVE_RESAMPLES = 2_000
MEASURES = "mean_return", "success_rate"
ALL = "all"


@dataclass(frozen=True)
class Score:
    """A number of each seed, and what they come to."""

    values: list[float]  # one per seed, in the order of the seeds
    iqm: float
    low: float | None  # of the 95% interval; None with one seed
    high: float | None
    mean: float
    std: float | None  # over the seeds, ddof 1; None with one seed


@dataclass(frozen=True)
class Curve:
    """Return by environment steps: at each point the IQM over seeds of a run's mean of its last 20 episodes."""

    steps: list[float]
    iqm: list[float]
    low: list[float] | None  # None with one seed
    high: list[float] | None


@dataclass(frozen=True)
class Group:
    """A condition in one environment, or, for `all`, in several."""

    condition: str
    environment: str
    seeds: list[int]
    scores: dict[str, Score | None]
    curve: Curve | None
    steps: list[int]  # of each run; the same number, unless settings differ
    wall_time_s: float  # mean of the runs


def group_runs(runs: Sequence[FinishedRun]) -> list[Group]:
    """Returns a group for each condition and environment, in the order they came in."""
    order = list(dict.fromkeys((run.condition, run.env_id) for run in runs))
    ordered = sorted(runs, key=lambda run: (order.index((run.condition, run.env_id)), run.seed))
    return [
        _group(condition, env_id, list(members))
        for (condition, env_id), members in groupby(ordered, key=lambda run: (run.condition, run.env_id))
    ]


def across_environments(runs: Sequence[FinishedRun]) -> list[Group]:
    """Returns a group for each condition that experiments on several environments share, by success rate alone.

    Returns of different environments have different scales, so no mean over them means anything.
    """
    found = []
    for name in dict.fromkeys(_plain_name(run) for run in runs):
        members = [run for run in runs if _plain_name(run) == name]
        strata = [[run for run in members if run.env_id == env] for env in dict.fromkeys(r.env_id for r in members)]
        score = _score(strata, "success_rate") if len(strata) > 1 else None
        if score is not None:
            scores = {"mean_return": None, "success_rate": score}
            seeds = sorted({run.seed for run in members})
            found.append(Group(name, ALL, seeds, scores, None, _steps(members), _wall_time_s(members)))
    return found


def warnings_about(runs: Sequence[FinishedRun], groups: Iterable[Group]) -> list[str]:
    """Returns what makes the runs harder to compare, a sentence each."""
    told = []
    for group in groups:
        where = f"{group.condition} in {group.environment}"
        if len(set(group.steps)) > 1:
            told.append(f"The runs of {where} were trained for different numbers of steps: {sorted(set(group.steps))}.")
        twice = sorted({seed for seed in group.seeds if group.seeds.count(seed) > 1})
        if twice:
            told.append(f"{where} has more than one run of seed {twice[0]}; they are counted as if independent.")
    for what, name in (("commits", "git_commit"), ("package versions", "packages")):
        values = {str(run.record.get(name)) for run in runs}
        if len(values) > 1:
            told.append(f"The runs were made with {len(values)} different {what}; run.json of each says which.")
    if len(modes := {str(run.record["evaluation"]["mode"]) for run in runs}) > 1:
        told.append(f"The runs were judged by different ways to choose actions: {', '.join(sorted(modes))}.")
    return told


def curve_of(runs: Sequence[FinishedRun]) -> Curve | None:
    """Returns the learning curve of some runs, where all of them have ended an episode; None if that is nowhere."""
    episodes = [_episodes(run) for run in runs]
    if not all(len(steps) for steps, _ in episodes):
        return None
    first = max(float(steps[0]) for steps, _ in episodes)
    last = float(min(run.steps for run in runs))
    if first >= last:
        return None
    grid = np.linspace(first, last, NUM_POINTS)
    values = np.stack([means[np.searchsorted(steps, grid, side="right") - 1] for steps, means in episodes])
    bounds = interval([values], num_resamples=NUM_CURVE_RESAMPLES)
    return Curve(
        steps=grid.tolist(),
        iqm=interquartile_mean([values]).tolist(),
        low=None if bounds is None else bounds.low.tolist(),
        high=None if bounds is None else bounds.high.tolist(),
    )


def _group(condition: str, environment: str, runs: list[FinishedRun]) -> Group:
    scores = {measure: _score([runs], measure) for measure in MEASURES}
    seeds = [run.seed for run in runs]
    return Group(condition, environment, seeds, scores, curve_of(runs), _steps(runs), _wall_time_s(runs))


def _score(strata: Sequence[Sequence[FinishedRun]], measure: str) -> Score | None:
    """Returns the score over runs, each stratum of one environment; None where one of the runs has no such number."""
    values = [[run.score(measure) for run in runs] for runs in strata]
    known = [np.array([value for value in runs if value is not None], dtype=np.float64) for runs in values]
    if any(len(numbers) != len(runs) for numbers, runs in zip(known, strata, strict=True)):
        return None
    together, bounds = np.concatenate(known), interval(known)
    return Score(
        values=together.tolist(),
        iqm=float(interquartile_mean(known)),
        low=None if bounds is None else float(bounds.low),
        high=None if bounds is None else float(bounds.high),
        mean=float(together.mean()),
        std=float(together.std(ddof=1)) if len(together) > 1 else None,
    )


def _episodes(run: FinishedRun) -> tuple[Floats, Floats]:
    """Returns the steps at which a run's episodes ended, and the mean of the last `WINDOW` returns there."""
    # Older runs do not say which episodes were shown hints: their rows are shorter.
    ended: list[Any] = [episode[:2] for line in read_metrics(run.path) for episode in line["episodes"]]
    numbers = np.array(ended, dtype=np.float64).reshape(-1, 2)
    return numbers[:, 0], running_mean(numbers[:, 1], WINDOW)


def _plain_name(run: FinishedRun) -> str:
    """Returns a condition's name without that of its experiment."""
    return run.condition.rpartition("/")[2]


def _steps(runs: Sequence[FinishedRun]) -> list[int]:
    return [run.steps for run in runs]


def _wall_time_s(runs: Sequence[FinishedRun]) -> float:
    return float(np.mean([run.record["wall_time_s"] for run in runs]))
