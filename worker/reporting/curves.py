"""Draws learning curves: a panel for each environment, a line and a band for each condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed to write a picture

from matplotlib import pyplot as plt

from worker.plot import WINDOW, draw_threshold
from worker.reporting.groups import Group

COLOURS = "#0b4f8a", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"
"""Okabe and Ito's, which colour-blind readers tell apart; more conditions than these change the line's style."""
STYLES = "-", "--", ":", "-."


def draw_curves(groups: Sequence[Group], path: Path) -> bool:
    """Writes the picture, and returns whether there was anything to draw."""
    drawn = [group for group in groups if group.curve is not None]
    environments = list(dict.fromkeys(group.environment for group in drawn))
    if not environments:
        return False
    conditions = list(dict.fromkeys(group.condition for group in drawn))
    figure, panels = plt.subplots(
        len(environments), figsize=(8, 4.5 * len(environments)), dpi=150, layout="constrained", squeeze=False
    )
    for axes, environment in zip(panels[:, 0], environments, strict=True):
        members = [group for group in drawn if group.environment == environment]
        for group in members:
            _draw_group(axes, group, conditions.index(group.condition))
        draw_threshold(axes, environment)
        _label(axes, environment)
    figure.savefig(path)
    plt.close(figure)
    return True


def _draw_group(axes: Any, group: Group, index: int) -> None:
    curve = group.curve
    assert curve is not None  # noqa: S101 (chosen by the caller)
    colour, style = COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]
    num_seeds = len(group.seeds)
    seeds = "1 seed, no band" if num_seeds == 1 else f"{num_seeds} seeds"
    axes.plot(curve.steps, curve.iqm, color=colour, linestyle=style, linewidth=2, label=f"{group.condition} ({seeds})")
    if curve.low is not None and curve.high is not None:
        axes.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _label(axes: Any, environment: str) -> None:
    axes.set_title(f"{environment}: IQM over seeds and its 95% interval", loc="left")
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"return (mean of the last {WINDOW} episodes)")
    axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="best", fontsize="small")
