"""MiniGrid's and BabyAI's views in words, from images written by hand."""

import json

import numpy as np
import pytest

from hintwise.describers import DESCRIBED_ENV_IDS, describer_for, hints_of
from hintwise.describers.minigrid import ACTIONS, level_ids
from hintwise.describers.minigrid_view import MAX_OBJECTS, read_view
from hintwise.errors import InvalidRequest

DOOR_KEY, GO_TO = "MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToLocal-v0"
DOOR_KEY_MISSION = "use the key to open the door and then get to the goal"
LETTERS = {
    "?": (0, 0, 0),
    ".": (1, 0, 0),
    "W": (2, 5, 0),
    "k": (5, 4, 0),
    "b": (6, 0, 0),
    "x": (7, 2, 0),
    "L": (4, 4, 2),
    "C": (4, 4, 1),
    "O": (4, 4, 0),
    "G": (8, 1, 0),
    "V": (9, 0, 0),
    "A": (1, 0, 0),
    "f": (3, 2, 0),
}
"""The agent looks up the page from A, the middle of the last row."""


def seen(*rows, carried="A", mission=DOOR_KEY_MISSION, direction=0):
    """Returns an observation from the nearest rows of a view; those beyond are unseen."""
    rows = ["???????"] * (7 - len(rows)) + [row.replace("A", carried) for row in rows]
    image = [[LETTERS[rows[j][i]] for j in range(7)] for i in range(7)]
    return {"image": image, "direction": direction, "mission": mission}


ROOM = seen("WWWLWWW", "?W..k.W", "?W...bW", "?W.A..W")


def words(*rows, env_id=DOOR_KEY, **more):
    return describer_for(env_id).describe(seen(*rows, **more))


def refusal(observation):
    with pytest.raises(InvalidRequest) as caught:
        describer_for(DOOR_KEY).describe(observation)
    return caught.value.detail


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["??WWW??", "?W...W?", "?W.A.W?"], "wall ahead 2 left 2 right 2"),
        (["......."] * 6 + ["...A..."], "wall ahead 7 left 4 right 4"),
        (["??WLW??", "?W.A.W?"], "wall ahead 1 left 2 right 2 locked yellow door ahead 1"),
        (["??WCW??", "?W.A.W?"], "wall ahead 1 left 2 right 2 closed yellow door ahead 1"),
        (["??WOW??", "?W.A.W?"], "wall ahead 1 left 2 right 2 open yellow door ahead 1"),
        (["??WWW??", "?WGAVW?"], "wall ahead 1 left 2 right 2 goal left 1 lava right 1"),
        (["??WWW??", "?W.f.W?", "?W.A.W?"], "wall ahead 2 left 2 right 2"),
        (
            ["??WWW??", "?W.kbW?", "?WxA.W?"],
            "wall ahead 2 left 2 right 2 yellow key ahead 1 blue box left 1 red ball ahead 1 right 1",
        ),
        (
            ["??WWW??", "?W.W.W?", "?W...W?", "?W.A.W?"],
            "wall ahead 2 left 2 right 2 gap ahead 2 left 1 gap ahead 2 right 1",
        ),
        (
            ["WWWWWWW", "W.....W", "W.....W", "?WWAWW?"],
            "wall ahead 3 left 1 right 1 space ahead 1 left 1 space ahead 1 right 1",
        ),
        (
            ["WWWWWWW", "W..W..W", "W.....W", "W..A..W"],
            "wall ahead 2 left 3 right 3 space ahead 2 left 1 space ahead 2 right 1",
        ),
        (["..WWW..", "..W.W..", "....W..", "..WAW.."], "wall ahead 3 left 1 right 1 gap ahead 1 left 1"),
        (
            ["?????.?", "WW.WWWW", "W.....W", "W..W..W", "W..A..W"],
            "wall ahead 1 left 3 right 3 space ahead 1 left 1 space ahead 1 right 1",
        ),
    ],
)
def test_what_a_view_reads(rows, text):
    assert words(*rows) == f"carry nothing {text}"


def test_a_wall_inside_the_free_rectangle_is_told():
    assert words("WWWWWWW", "W.W...W", "W.....W", "W..A..W") == (
        "carry nothing wall ahead 3 left 3 right 3 wall ahead 2 left 1"
    )


def test_what_is_carried_is_told_and_not_seen_again():
    assert words("WWWWWWW", "WWWAWWW", carried="k") == "carry yellow key wall ahead 1 left 1 right 1"


def test_a_mission_that_is_the_task_is_not_repeated_and_any_other_is_told():
    describer = describer_for(DOOR_KEY)
    assert describer.task == DOOR_KEY_MISSION
    assert describer.describe(ROOM).startswith("carry nothing wall")
    other = {**ROOM, "mission": "go to  the\nred ball"}
    assert describer.describe(other) == f"mission go to the red ball {describer.describe(ROOM)}"
    assert describer_for(GO_TO).describe(other) == describer.describe(other)


def test_the_task_is_constant_for_every_level():
    assert {describer_for(env_id).task for env_id in level_ids() if env_id.startswith("BabyAI-")} == {
        "do what the mission says"
    }
    assert describer_for("MiniGrid-Playground-v0").task == "look around"
    assert all(describer_for(env_id).task for env_id in level_ids())


def test_all_actions_are_legal_and_obstacles_leave_the_moves():
    describer = describer_for(DOOR_KEY)
    assert describer.actions == hints_of(describer) == list(ACTIONS)
    assert describer.legal_actions(ROOM) == list(range(7))
    assert describer_for("MiniGrid-Dynamic-Obstacles-5x5-v0").actions == ["turn left", "turn right", "go forward"]


def test_every_level_is_described_from_its_id():
    assert set(level_ids()) <= set(DESCRIBED_ENV_IDS)


def test_an_array_and_json_read_the_same():
    describer = describer_for(DOOR_KEY)
    as_array = {**ROOM, "image": np.array(ROOM["image"], dtype=np.uint8), "direction": np.int64(0)}
    assert describer.describe(as_array) == describer.describe(json.loads(json.dumps(ROOM))) == describer.describe(ROOM)


def test_no_more_objects_are_told_than_stated():
    view = read_view(DOOR_KEY, seen("bbbbbbb", "bbbbbbb", "bbbAbbb"))
    assert len(view.things) == MAX_OBJECTS
    assert max(abs(thing.ahead) + abs(thing.right) for thing in view.things) <= 3  # the nearest


def test_lava_does_not_crowd_objects_out():
    assert [thing.kind for thing in read_view(DOOR_KEY, seen("VVVVVVV", "VVGVVVV", "VVVAVVV")).things] == [
        "goal",
        "lava",
        "lava",
        "lava",
    ]


def without(part):
    return {name: value for name, value in ROOM.items() if name != part}


def with_cell(cell, triple):
    image = [[list(pixel) for pixel in column] for column in ROOM["image"]]
    image[cell[0]][cell[1]] = triple
    return {**ROOM, "image": image}


@pytest.mark.parametrize(
    ("observation", "said"),
    [
        (ROOM["image"], "got a value of type list"),
        (7, "got a value of type int"),
        (without("image"), "image is missing"),
        (without("direction"), "direction is missing"),
        (without("mission"), "mission is missing"),
        ({**ROOM, "mission": 3}, "mission is of type int; expected a text"),
        ({**ROOM, "direction": 4}, "direction is 4; expected an integer from 0 to 3"),
        ({**ROOM, "direction": True}, "direction is True"),
        ({**ROOM, "direction": 0.5}, "direction is 0.5"),
        ({**ROOM, "image": [[1]]}, "image has the shape (1, 1); expected (7, 7, 3)"),
        ({**ROOM, "image": [[1], [1, 2]]}, "its rows differ in length"),
        ({**ROOM, "image": np.ones((7, 7, 3))}, "image holds something else than integers"),
        ({**ROOM, "image": [[["a"] * 3] * 7] * 7}, "image holds something else than integers"),
        (with_cell((0, 0), [11, 0, 0]), "unknown object; they are numbered from 0 to 10"),
        (with_cell((0, 0), [-1, 0, 0]), "unknown object"),
        (with_cell((0, 0), [4, 6, 0]), "unknown colour; they are numbered from 0 to 5"),
        (with_cell((0, 0), [4, 0, 3]), "unknown state; they are numbered from 0 to 2"),
        (with_cell((0, 0), [10, 0, 0]), "image shows the agent itself"),
        (with_cell((3, 6), [2, 5, 0]), "image shows wall at row 6 of column 3"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_is_no_observation_is_named(observation, said):
    assert said in refusal(observation)
