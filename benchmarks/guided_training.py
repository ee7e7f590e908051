"""What guidance was worth: finished runs with it, beside those without and an agent that only obeys.

    python -m worker sweep experiments/guidance-*.toml experiments/wrong-hints-*.toml
    python -m benchmarks.guided_training runs/guidance-* runs/wrong-hints-*

| number             | of a run                                                                                     |
| ------------------ | -------------------------------------------------------------------------------------------- |
| `success_rate`     | share of 100 fresh episodes, from seed 900,000, that succeed: without hints, and with them;  |
|                    | `mode` tells how actions were chosen                                                         |
| `steps_to_bar`     | environment steps after which 90% of the last 20 training episodes had succeeded, or null    |
| `training_success` | success of the last 20 training episodes, averaged over the whole training: the area under   |
|                    | the learning curve, as GLAM measures it                                                      |
| `..._alone`        | the same of the training episodes that showed the policy no hints                            |

Each condition stands beside `unguided` on the same seeds: `steps_ratio` is its median `steps_to_bar` over that of
`unguided`, where a run that never got there counts as the slowest.
An episode counts when it ends: where failures are long, the first to end are successes, and the bar is reached early.
Returns are compared seed by seed: `lower_bound`
is the lower end of the one-sided 95% interval of the mean difference, by Student's t over the pairs, and
`share_of_maximum` the same over the highest return there is. `obey_only` takes the action that a fresh hint raises
most, and learns nothing (benchmarks/obey_only.py); `--no-obey` leaves it out. A picture of each experiment is drawn.
`--add` keeps what the results file has of experiments that are not given.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from scipy import stats

from benchmarks import results_file
from benchmarks.guided_curves import draw
from benchmarks.guided_runs import BAR, UNGUIDED, WINDOW, Run, Sweep, read_sweep
from benchmarks.obey_only import GUIDANCE_MODEL, obey_only
from hintwise.language_model import load_language_model
from worker.minigrid_levels import is_level
from worker.pretraining.reader import Reader

MAX_RETURNS = {"CartPole-v1": 500.0}
MEASURES = "mean_return", "success_rate"
CONFIDENCE = 0.95

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", metavar="RUNS_DIR", help="directories that `sweep` wrote")
    parser.add_argument("--obey", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--add", action="store_true", help="to the results file, instead of writing it anew")
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sweeps = [read_sweep(directory) for directory in arguments.sweeps]
    obeying = _obeying(sweeps) if arguments.obey else {}
    before = results_file.read("guided_training").get("experiments", []) if arguments.add else []
    names = {sweep.name for sweep in sweeps}
    kept = [each for each in before if each["experiment"] not in names]
    measured = [*kept, *(_measured(sweep, obeying.get(sweep.name)) for sweep in sweeps)]
    for sweep in sweeps:
        draw(sweep, obeying.get(sweep.name), arguments.pictures / picture_name(sweep))
    print(results_file.write("guided_training", {"bar": BAR, "window": WINDOW, "experiments": measured}).read_text())


def picture_name(sweep: Sweep) -> str:
    """Returns the name of an experiment's picture."""
    return f"guided-{sweep.name.removeprefix('guidance-')}.png"


def _obeying(sweeps: Sequence[Sweep]) -> dict[str, Row]:
    """Returns what obeying alone comes to, by experiment; in each world it is played once."""
    reader, known = Reader(load_language_model(GUIDANCE_MODEL)), {}
    for sweep in sweeps:
        world = repr(sweep.world)
        if world not in known:
            found = obey_only(reader, **sweep.world)
            known[world] = {name: getattr(found, name) for name in (*MEASURES, "episodes", "seed")}
    return {sweep.name: known[repr(sweep.world)] for sweep in sweeps}


def _measured(sweep: Sweep, obeying: Row | None) -> Row:
    unguided = [run for run in sweep.runs if run.condition == UNGUIDED]
    conditions = []
    for name in sweep.conditions:
        runs = [run for run in sweep.runs if run.condition == name]
        beside = beside_unguided(runs, unguided, max_return(sweep.world["env_id"])) if name != UNGUIDED else None
        conditions.append({"condition": name, **summary(runs), "beside_unguided": beside})
    return {
        "experiment": sweep.name,
        **sweep.world,
        "runs": [shown(run) for run in sweep.runs],
        "conditions": conditions,
        "obey_only": obeying,
        "missing": sweep.missing,
    }


def shown(run: Run) -> Row:
    """Returns a run as a row."""
    names = "steps", "training_s", "wall_time_s", "git_commit"
    return {
        "condition": run.condition,
        "seed": run.seed,
        "episodes": run.score("episodes"),
        "mode": run.line["evaluation"]["mode"],
        "mean_return": run.mean_return,
        "success_rate": run.score("success_rate"),
        "mean_return_with_hints": run.score("mean_return", with_hints=True),
        "success_rate_with_hints": run.score("success_rate", with_hints=True),
        "steps_to_bar": run.steps_to_bar,
        "steps_to_bar_alone": run.alone.steps_to_bar,
        "training_success": float(run.curve.mean()),
        "training_success_alone": float(run.alone.curve.mean()),
        **{name: run.line[name] for name in names},
    }


def summary(runs: Sequence[Run]) -> Row:
    """Returns what the runs of a condition come to: median and mean over its seeds."""
    rows = [shown(run) for run in runs]
    names = (
        "mean_return",
        "success_rate",
        "mean_return_with_hints",
        "success_rate_with_hints",
        "training_success",
        "training_success_alone",
        "training_s",
    )
    return {
        "seeds": [run.seed for run in runs],
        **{name: _middle([row[name] for row in rows]) for name in names},
        "steps_to_bar": _steps(runs),
        "steps_to_bar_alone": _steps([run.alone for run in runs]),
    }


def _steps(runs: Sequence[Run]) -> Row:
    return {
        "by_seed": {run.seed: run.steps_to_bar for run in runs},
        "reached": sum(run.steps_to_bar is not None for run in runs),
        "median": median_steps(runs),
    }


def median_steps(runs: Sequence[Run]) -> float | None:
    """Returns the median of the steps to the bar, None where half of the runs or more never got there."""
    steps = [run.steps_to_bar for run in runs]
    found = median(math.inf if each is None else each for each in steps)
    return None if math.isinf(found) else found


def beside_unguided(runs: Sequence[Run], unguided: Sequence[Run], most: float | None) -> Row | None:
    """Returns a condition beside the unguided runs of the same seeds; None where there are none.

    Args:
        runs: Of the condition.
        unguided: The runs without guidance.
        most: The highest return there is; None where nobody knows it.
    """
    others = {run.seed: run for run in unguided}
    pairs = [(run, others[run.seed]) for run in runs if run.seed in others]
    if not pairs:
        return None
    differences = {run.seed: run.mean_return - other.mean_return for run, other in pairs}
    bound = lower_bound(list(differences.values()))
    with_guidance, without = ([pair[k] for pair in pairs] for k in range(2))
    return {
        "return_differences": differences,
        "mean_difference": mean(differences.values()),
        "lower_bound": bound,
        "share_of_maximum": None if bound is None or most is None else bound / most,
        "steps_ratio": steps_ratio(with_guidance, without),
        "steps_ratio_alone": steps_ratio([run.alone for run in with_guidance], without),
    }


def steps_ratio(runs: Sequence[Run], others: Sequence[Run]) -> float | None:
    """Returns the steps to the bar of some runs over those of others; None where one of the medians is unknown."""
    steps, theirs = median_steps(runs), median_steps(others)
    return None if steps is None or theirs is None else steps / theirs


def lower_bound(differences: Sequence[float]) -> float | None:
    """Returns the lower end of the one-sided 95% interval of a mean, by Student's t; None of one number."""
    count = len(differences)
    if count < 2:
        return None
    return mean(differences) - float(stats.t.ppf(CONFIDENCE, count - 1)) * stdev(differences) / math.sqrt(count)


def max_return(env_id: str) -> float | None:
    """Returns the highest return of an environment; a level of MiniGrid or BabyAI pays less than 1."""
    return 1.0 if is_level(env_id) else MAX_RETURNS.get(env_id)


def _middle(values: Sequence[float | None]) -> Mapping[str, float] | None:
    """Returns median and mean; None where a run has no such number."""
    known = [value for value in values if value is not None]
    return {"median": median(known), "mean": mean(known)} if len(known) == len(values) else None


if __name__ == "__main__":
    main()
