"""Draws the learning curves of a sweep: a line and a band for each condition."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.guided_runs import UNGUIDED, WINDOW, Sweep
from worker.reporting.curves import COLOURS

BLACK, MUTED = "#000000", "#8a8f98"
"""Of unguided runs, in every picture, and of who does not learn."""


def draw(sweep: Sweep, obeying: Mapping[str, Any] | None, path: Path) -> None:
    """Draws success by environment steps: the median over seeds, and the band between the lowest and the highest.

    Of the training episodes those count that showed the policy no hints.

    Args:
        sweep: Whose runs are drawn.
        obeying: What obeying alone comes to, where it was played.
        path: Of the picture.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    others = cycle(colour for colour in COLOURS if colour != BLACK)
    for name in sweep.conditions:
        _draw_condition(axes, sweep, name, BLACK if name == UNGUIDED else next(others))
    if obeying is not None:
        axes.axhline(
            obeying["success_rate"], color=MUTED, linestyle="--", linewidth=1, label="obeying alone, no training"
        )
    axes.set_title(f"{sweep.world['env_id']}: median over seeds, lowest to highest", loc="left")
    success = f"success, last {WINDOW} training episodes without hints"
    axes.set(xlabel="environment steps", ylabel=success, ylim=(-0.02, 1.02))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw_condition(axes: Any, sweep: Sweep, name: str, colour: str) -> None:
    runs = [run.alone for run in sweep.runs if run.condition == name]
    shortest = min(runs, key=lambda run: run.steps)
    curves = np.stack([np.interp(shortest.grid, run.grid, run.curve) for run in runs])
    seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    axes.plot(shortest.grid, np.median(curves, axis=0), color=colour, linewidth=2, label=f"{name} ({seeds})")
    if len(runs) > 1:
        axes.fill_between(shortest.grid, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.12, linewidth=0)
