"""Draws a run's learning curve: each episode as a point, their running mean as a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed to write a picture

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from worker.config import PlotConfig
from worker.errors import CheckpointUnusable
from worker.run_files import read_metrics, read_run

WINDOW = 20
PICTURE = "learning_curve.png"
POINTS, LINE, MUTED = "#9db7d5", "#0b4f8a", "#8a8f98"


def plot(config: PlotConfig) -> None:
    """Writes learning_curve.png into a run directory and prints its path."""
    print(draw_learning_curve(config.run_dir), file=sys.stdout)  # noqa: T201


def draw_learning_curve(run_dir: Path) -> Path:
    """Returns the path of the picture that was drawn.

    Raises:
        CheckpointUnusable: There is no run in the directory, or no episode has ended yet.
    """
    run = read_run(run_dir)
    ended = [episode[:2] for line in read_metrics(run_dir) for episode in line["episodes"]]  # older rows are shorter
    episodes = np.array(ended, dtype=np.float64)
    if len(episodes) == 0:
        raise CheckpointUnusable(f"no episode of {run_dir} has ended yet: there is nothing to draw")
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=150, layout="constrained")
    _draw_episodes(axes, episodes[:, 0], episodes[:, 1])
    draw_threshold(axes, run["config"]["env_id"])
    _label(axes, run)
    path = run_dir / PICTURE
    figure.savefig(path)
    plt.close(figure)
    return path


def running_mean(returns: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Returns, for each episode, the mean of it and up to `window` - 1 before it."""
    total = np.concatenate([[0.0], np.cumsum(returns)])
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - window, 0)
    averaged: NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return averaged


def _draw_episodes(axes: Any, steps: NDArray[np.float64], returns: NDArray[np.float64]) -> None:
    axes.plot(steps, returns, ".", color=POINTS, markersize=3, alpha=0.55, label="one episode", rasterized=True)
    axes.plot(steps, running_mean(returns, WINDOW), color=LINE, linewidth=2, label=f"mean of the last {WINDOW}")


def draw_threshold(axes: Any, env_id: str) -> None:
    """Marks the return at which the environment's authors call it solved, where they said so."""
    try:
        threshold = gymnasium.spec(env_id.rpartition(":")[2]).reward_threshold
    except gymnasium.error.Error:  # its module, of `module:id`, has not been imported here
        return
    if threshold is not None:
        axes.axhline(threshold, color=MUTED, linewidth=1, linestyle="--", label=f"solved: {threshold:g}")


def _label(axes: Any, run: dict[str, Any]) -> None:
    config = run["config"]
    axes.set_title(
        f"{config['env_id']}: {config['algorithm'].upper()} on {run['model']}, seed {run['seed']}", loc="left"
    )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode (sum of rewards)")
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize="small", borderaxespad=0.2)
