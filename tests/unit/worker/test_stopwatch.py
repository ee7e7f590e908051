from contextlib import suppress

import pytest

from worker.meanwhile import Meanwhile
from worker.stopwatch import PARTS, Stopwatch, shares


@pytest.fixture
def clock():
    return [100.0]


@pytest.fixture
def stopwatch(clock):
    return Stopwatch(lambda: clock[0])


def test_a_part_inside_a_part_is_paid_for_once(clock, stopwatch):
    clock[0] += 1
    with stopwatch.on("waiting"):
        clock[0] += 2
        with stopwatch.on("saving"):
            clock[0] += 4
        clock[0] += 8
    clock[0] += 16
    assert stopwatch.lap() == {**dict.fromkeys(PARTS, 0.0), "waiting": 10, "saving": 4, "other": 17}


def test_laps_leave_nothing_out(clock, stopwatch):
    with suppress(ValueError), stopwatch.on("learning"):
        clock[0] += 3
        raise ValueError
    clock[0] += 1
    first = stopwatch.lap()
    with stopwatch.on("pushing"):
        clock[0] += 5
        second = stopwatch.lap()
        clock[0] += 7
    third = stopwatch.lap()
    assert (first["learning"], first["other"]) == (3, 1)
    assert (second["pushing"], third["pushing"]) == (5, 7)
    assert sum(map(sum, (lap.values() for lap in (first, second, third)))) == clock[0] - 100


def test_shares_are_of_the_whole_and_largest_first():
    assert shares({"waiting": 1.0, "learning": 2.99, "saving": 0.01}) == "learning 75%, waiting 25%"
    assert shares({}) == "-"


def test_what_was_put_off_is_done_once_and_in_order():
    meanwhile, done = Meanwhile(), []
    meanwhile.later(lambda: done.append(1))
    meanwhile.later(lambda: meanwhile.later(lambda: done.append(3)))
    meanwhile.later(lambda: done.append(2))
    assert done == []
    meanwhile.run()
    meanwhile.run()
    assert done == [1, 2, 3]


def test_a_job_that_fails_is_not_tried_again():
    meanwhile, done = Meanwhile(), []
    meanwhile.later(lambda: 1 / 0)
    meanwhile.later(lambda: done.append("next"))
    with pytest.raises(ZeroDivisionError):
        meanwhile.run()
    meanwhile.run()
    assert done == ["next"]
