"""Finished runs of one sweep, and the learning curve of each: which of its training episodes succeeded, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.experiments.results import PLAN, read_results
from worker.plot import running_mean
from worker.run_files import read_metrics
from worker.text_env import TextEnv

WINDOW = 20
"""Training episodes whose success is averaged."""
BAR = 0.9
UNGUIDED = "unguided"
"""The condition that the others stand beside."""
NUM_POINTS = 200
"""Of a learning curve."""

Floats = NDArray[np.float64]


class Run(NamedTuple):
    """A finished run."""

    condition: str
    seed: int
    line: Mapping[str, Any]  # of results.jsonl
    ended: Floats  # (E,) environment steps after which its training episodes ended
    succeeded: Floats  # (E,) 0 or 1
    hinted: NDArray[np.bool_]  # (E,) whether the policy was shown hints

    @property
    def steps(self) -> int:
        """Environment steps that it was trained for."""
        return int(self.line["steps"])

    @property
    def alone(self) -> Run:
        """The same run, of whose training episodes those are left that showed no hints."""
        kept = ~self.hinted
        return self._replace(ended=self.ended[kept], succeeded=self.succeeded[kept], hinted=self.hinted[kept])

    @property
    def grid(self) -> Floats:
        """Environment steps of the points of its curve."""
        return np.linspace(0, self.steps, NUM_POINTS + 1)[1:]

    @property
    def curve(self) -> Floats:
        """Success of the last 20 episodes at each point; of all where there are fewer, 0 before the first ends."""
        means = np.concatenate([[0.0], running_mean(self.succeeded, WINDOW)])
        return means[np.searchsorted(self.ended, self.grid, side="right")]

    @property
    def steps_to_bar(self) -> int | None:
        """Environment steps after which nine tenths of 20 episodes had succeeded; None where they never had."""
        reached = np.flatnonzero(running_mean(self.succeeded, WINDOW) >= BAR)
        full = reached[reached >= WINDOW - 1]
        return int(self.ended[full[0]]) if len(full) else None

    @property
    def mean_return(self) -> float:
        """Of its evaluation, without hints."""
        return float(self.line["evaluation"]["mean_return"])

    def score(self, name: str, *, with_hints: bool = False) -> float | None:
        """Returns a number of its evaluation; None where it was shown no hints."""
        evaluation = self.line["evaluation_with_hints" if with_hints else "evaluation"]
        return evaluation[name] if evaluation else None


class Sweep(NamedTuple):
    """An experiment that was run."""

    name: str
    conditions: list[str]  # as the experiment's file has them
    world: Mapping[str, Any]  # env_id, env_kwargs, memory
    runs: list[Run]
    missing: list[str]  # that have not finished


def read_sweep(directory: Path) -> Sweep:
    """Returns what a directory that `worker sweep` wrote holds."""
    lines = read_results(directory)
    if not lines:
        raise SystemExit(f"{directory} holds no finished run; `python -m worker sweep` makes them")
    plan = json.loads((directory / PLAN).read_text())
    worlds = [{name: line["evaluation"][name] for name in ("env_id", "env_kwargs", "memory")} for line in lines]
    if any(world != worlds[0] for world in worlds):
        raise SystemExit(f"the runs of {directory} are of several environments; compare conditions in one")
    by_place = {(line["condition"], line["seed"]): line for line in lines}
    places = [(condition, seed) for condition in plan["conditions"] for seed in plan["seeds"]]
    return Sweep(
        name=plan["experiment"],
        conditions=[name for name in plan["conditions"] if any(condition == name for condition, _ in by_place)],
        world=worlds[0],
        runs=[_run(directory, by_place[place], worlds[0]) for place in places if place in by_place],
        missing=[f"{condition}, seed {seed}" for condition, seed in places if (condition, seed) not in by_place],
    )


def _run(directory: Path, line: Mapping[str, Any], world: Mapping[str, Any]) -> Run:
    condition, seed = line["condition"], line["seed"]
    episodes = [each for row in read_metrics(directory / condition / f"seed-{seed}") for each in row["episodes"]]
    if any(len(each) != 4 for each in episodes):
        raise SystemExit(
            f"{directory}: {condition}, seed {seed} does not tell which episodes showed hints; run it again"
        )
    numbers = np.array(episodes, dtype=np.float64).reshape(-1, 4)  # step, return, length, shown hints
    with closing(TextEnv(world["env_id"], world["env_kwargs"])) as env:
        succeeded = env.successes(numbers[:, 1])
    if succeeded is None:
        raise SystemExit(f"nobody says what success is in {world['env_id']}")
    return Run(condition, seed, line, numbers[:, 0], succeeded.astype(np.float64), numbers[:, 3] > 0)
