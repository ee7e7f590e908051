"""How far hints have been carried out along an episode."""

from itertools import pairwise

import pytest

from worker.pretraining.purposes import DONE, MAX_INTERRUPTION, NUM_REMINDERS, Purpose, purposes_along

KEY, DOOR, LOOK = " to pick up the key", " to open the door", " to look around"


def advice(*clauses):
    return [(f"go forward{clause}", clause) for clause in clauses]


def remaining(known, clause):
    """Returns the steps that remain of a purpose at each step, None where it is not told of."""
    return [next((p.remaining for p in few if p.clause == clause), None) for few in known]


def test_steps_remain_to_the_end_of_a_purpose_and_then_it_is_carried_out():
    known = purposes_along(advice(KEY, KEY, DOOR, DOOR, DOOR, DOOR, DOOR), reached=True)
    assert remaining(known, KEY) == [2, 1, *[0] * NUM_REMINDERS, None, None]
    assert remaining(known, DOOR) == [None, None, 5, 4, 3, 2, 1]


def test_the_last_purpose_is_unknown_where_the_end_was_not_reached():
    known = purposes_along(advice(KEY, DOOR, DOOR), reached=False)
    assert remaining(known, KEY) == [1, 0, 0]
    assert remaining(known, DOOR) == [None] * 3


def test_what_is_out_of_sight_for_a_moment_is_not_carried_out():
    gone = [LOOK] * MAX_INTERRUPTION
    known = purposes_along(advice(KEY, *gone, KEY, DOOR), reached=True)
    assert remaining(known, KEY) == [*range(len(gone) + 2, 0, -1), 0]
    assert remaining(known, LOOK) == [None] * (len(gone) + 3)


def test_what_comes_back_late_had_ended():
    known = purposes_along(advice(KEY, *[LOOK] * (MAX_INTERRUPTION + 1), KEY), reached=True)
    assert remaining(known, KEY)[:2] == [1, 0]


def test_a_hint_without_a_clause_is_its_own_purpose():
    known = purposes_along([("push left", ""), ("push left", ""), ("push right", "")], reached=False)
    assert [[(p.hint, p.remaining) for p in few] for few in known] == [
        [("push left", 2)],
        [("push left", 1)],
        [("push left", 0)],
    ]


def test_each_step_has_its_own_words():
    known = purposes_along([("turn left" + KEY, KEY), ("pick up" + KEY, KEY), ("x", "")], reached=False)
    assert [few[0].hint for few in known] == ["turn left" + KEY, "pick up" + KEY, "pick up" + KEY]


def test_potentials_rise_with_every_step_and_stay_within_0_and_1():
    potentials = [Purpose("", "", remaining).potential for remaining in range(200, -1, -1)]
    assert all(earlier < later for earlier, later in pairwise(potentials))
    assert potentials[0] > 0
    assert potentials[-1] == pytest.approx(DONE)
