import math

from worker.durations import duration


def test_hours_are_told_where_there_are_any():
    times = 0, 59.6, 187, 3_599.4, 3_599.6, 3_787, 5_400, 360_000
    told = [duration(seconds) for seconds in times]
    assert told == ["0:00", "1:00", "3:07", "59:59", "1:00:00", "1:03:07", "1:30:00", "100:00:00"]


def test_a_time_that_nobody_knows_is_a_dash():
    assert duration(math.nan) == duration(math.inf) == "-"
