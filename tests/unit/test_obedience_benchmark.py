"""What the benchmark of obedience makes of steps."""

import pytest

from benchmarks.obedience import Deed, colourless, summary

TURN, GO = "turn left to open the door", "go forward to open the door"


def test_steps_are_counted_by_hint_the_commonest_first():
    deeds = [
        Deed(0, "far", GO, obeyed=True),
        Deed(0, "near", GO, obeyed=True),
        Deed(0, "beside", TURN, obeyed=False),
        Deed(1, "far", GO, obeyed=False),
    ]
    told = summary(deeds)
    assert told["obeyed"] == 0.5
    assert told["by_hint"] == [
        {"hint": GO, "share": 0.75, "episodes": 2, "obeyed": pytest.approx(2 / 3)},
        {"hint": TURN, "share": 0.25, "episodes": 1, "obeyed": 0.0},
    ]


def test_laps_show():
    straight = [Deed(0, f"place {i}", GO, obeyed=True) for i in range(6)]
    laps = [Deed(1, f"place {i % 2}", GO, obeyed=True) for i in range(6)]
    assert summary(straight)["steps_a_state"] == 1
    assert summary(laps)["steps_a_state"] == 3
    assert summary(straight + laps)["steps_a_state"] == 2


def test_doors_of_all_colours_are_doors():
    assert colourless("go forward to open the yellow door") == GO
