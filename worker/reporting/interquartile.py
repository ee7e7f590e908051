"""The interquartile mean of runs and how sure one can be of it.

    IQM(x_1 <= ... <= x_n) = mean of x_(k+1) ... x_(n-k),   k = floor(n / 4)

Of fewer than four runs none is left out, and it is their mean. The interval is the 2.5th to the 97.5th
percentile of the IQM over resamples. A resample draws, with replacement, as many runs of each stratum (each
environment) as it has; the runs of all strata are then taken together.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
sections 4.1 (stratified bootstrap) and 4.3 (IQM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CUT = 0.25
CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
MAX_BATCH_ELEMENTS = 4_000_000
"""Of resamples held at once: 32 MB."""
SEED = 0
"""Of the resamples: the same runs always get the same interval."""

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """The bounds of a confidence interval; one of each per column of what it was computed of."""

    low: Floats
    high: Floats


def interquartile_mean(strata: Sequence[Floats]) -> Floats:
    """Returns the IQM over the runs of all strata.

    Args:
        strata: Arrays of shape (runs, ...): runs come first, and the rest, such as points of a curve, is kept.
    """
    return np.asarray(stats.trim_mean(np.concatenate(strata), CUT, axis=0), dtype=np.float64)


def interval(strata: Sequence[Floats], *, num_resamples: int = NUM_RESAMPLES) -> Interval | None:
    """Returns the 95% stratified bootstrap interval of the IQM.

    Args:
        strata: As for `interquartile_mean`.
        num_resamples: How many resamples it is read from.

    Returns:
        None where a stratum has one run: nothing tells how much another would differ.
    """
    if min(len(runs) for runs in strata) < 2:
        return None

    def statistic(*resampled: Floats, axis: int) -> Floats:
        return np.asarray(stats.trim_mean(np.concatenate(resampled, axis=axis), CUT, axis=axis))

    found = stats.bootstrap(
        strata,
        statistic,
        paired=False,  # each stratum is resampled by itself
        vectorized=True,
        axis=0,
        n_resamples=num_resamples,
        batch=max(1, MAX_BATCH_ELEMENTS // sum(runs.size for runs in strata)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(np.asarray(found.low), np.asarray(found.high))
