"""Interquartile means and their intervals, against values worked out by hand and by enumeration."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from worker.reporting.interquartile import interquartile_mean, interval


def column(*values):
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ((7,), 7),
        ((1, 5), 3),
        ((1, 2, 9), 4),  # three runs: none is left out
        ((100, 2, 4, -50), 3),  # one left out at each end
        ((500, 500, 500, 500, 9), 500),
        ((1, 2, 3, 4, 1000), 3),
        ((0, 0, 1, 2, 3, 4, 90, 91), 2.5),  # two at each end
    ],
)
def test_interquartile_mean_by_hand(runs, expected):
    assert interquartile_mean([column(*runs)]) == expected


def test_strata_are_taken_together():
    together = interquartile_mean([column(0, 1), column(10, 100)])
    assert together == (1 + 10) / 2
    assert together == stats.trim_mean([0, 1, 10, 100], 0.25)


def test_each_point_of_a_curve_has_its_own_mean():
    curves = np.array([[0, 4], [1, 3], [2, 2], [30, -30]], dtype=np.float64)
    np.testing.assert_array_equal(interquartile_mean([curves]), [1.5, 2.5])


def test_one_run_has_no_interval():
    assert interval([column(3)]) is None
    assert interval([column(1, 2, 3), column(4)]) is None


def test_equal_runs_have_an_interval_of_no_width():
    assert interval([column(5, 5, 5)]) == (5, 5)


def enumerated(strata, percentiles):
    """Percentiles over every resample there is, each equally likely."""
    per_stratum = [list(product(runs, repeat=len(runs))) for runs in strata]
    means = [stats.trim_mean(np.concatenate(drawn), 0.25) for drawn in product(*per_stratum)]
    return np.percentile(means, percentiles, method="closest_observation")


@pytest.mark.parametrize("strata", [[(1, 2, 4, 8)], [(1, 2), (10, 20, 40)]])
def test_the_interval_is_that_of_all_resamples(strata):
    strata = [column(*runs) for runs in strata]
    low, high = interval(strata, num_resamples=20_000)
    # The distribution has steps; the percentile of a sample of it lies on the same or a neighbouring one.
    lowest, highest, least, most = enumerated(strata, [2, 3, 97, 98])
    assert lowest <= low <= highest
    assert least <= high <= most


def test_strata_are_resampled_each_by_itself():
    """Two environments far apart: pooled resampling would mix how many runs each gives, and widen the interval."""
    low, high = interval([column(0, 0), column(100, 100)])
    assert (low, high) == (50, 50)


def test_an_interval_over_a_curve_is_that_of_each_point():
    curves = np.array([[0, 4], [1, 3], [2, 2], [30, -30]], dtype=np.float64)
    low, high = interval([curves])
    single = [interval([curves[:, k]]) for k in range(2)]
    assert low.shape == high.shape == (2,)
    assert np.all(np.abs(low - [each.low for each in single]) < 1)
    assert np.all(low <= interquartile_mean([curves]))
    assert np.all(high >= interquartile_mean([curves]))


def test_the_same_runs_get_the_same_interval():
    runs = [column(1, 5, 9, 20, 21)]
    assert interval(runs) == interval(runs)
    assert interval(runs, num_resamples=50) == interval(runs, num_resamples=50)
