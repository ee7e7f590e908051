"""Texts that tell what the episode has shown before."""

import gymnasium
import numpy as np
import pytest

from hintwise.describers import describer_for
from hintwise.describers.memory import MAX_REACH, Remembering, remembering
from hintwise.errors import InvalidRequest

LAKE = ["SFF", "FFF", "FFG"]
SAMPLES = {
    "CartPole-v1": [0.0, 0.5, -0.03, -0.8],
    "MountainCar-v0": [-0.8, 0.0],
    "Acrobot-v1": [1.0, 0.0, 0.8, 0.6, 0.0, 2.0],
    "FrozenLake-v1": 6,
    "CliffWalking-v1": 36,
    "Taxi-v4": 328,
}


def lake(reach):
    return Remembering(
        describer_for(gymnasium.make("FrozenLake-v1", desc=LAKE, is_slippery=False, max_episode_steps=99)), reach
    )


def test_sides_that_were_stood_on_are_counted():
    describer = lake(5)
    for cell in (4, 1, 4, 3):
        describer.see(cell)
    assert describer.describe(4) == "at 1 1 goal down 1 right 1 left open 1 down open right open up open 1"
    assert describer.describe(1) == "at 0 1 goal down 2 right 1 left open down open 2 right open up wall"


def test_what_is_too_far_back_is_forgotten():
    describer = lake(2)
    for cell in (1, 4, 3):
        describer.see(cell)
    assert describer.describe(4).endswith("left open 1 down open right open up open")


def test_an_episode_begins_without_a_past():
    describer = lake(9)
    describer.see(1)
    describer.forget()
    assert describer.describe(4) == describer_for(
        gymnasium.make("FrozenLake-v1", desc=LAKE, max_episode_steps=99)
    ).describe(4)


def view(*things):
    """Returns what an agent in an open place sees, with things at (column, row) of its image."""
    image = np.zeros((7, 7, 3), dtype=np.uint8)
    image[:, :, 0] = 1
    for column, row, kind, colour, state in things:
        image[column, row] = kind, colour, state
    return {"image": image, "direction": 0, "mission": "go to the red ball"}


BALL, KEY, DOOR = (3, 3, 6, 0, 0), (2, 4, 5, 1, 0), (4, 2, 4, 4, 1)


def test_minigrid_tells_of_things_that_are_out_of_view_the_latest_first():
    describer = Remembering(describer_for("BabyAI-GoToRedBall-v0"), 3)
    describer.see(view(BALL, DOOR))
    describer.see(view(KEY))
    plain = describer_for("BabyAI-GoToRedBall-v0").describe(view())
    assert describer.describe(view()) == f"{plain} before green key red ball closed yellow door"
    assert describer.describe(view(BALL)).endswith(" before green key closed yellow door")


def test_what_has_no_words_for_the_past_repeats_its_texts():
    describer = Remembering(describer_for("MountainCar-v0"), 2)
    for position in (-0.2, -0.5, -0.8):
        describer.see([position, 0.0])
    texts = [describer_for("MountainCar-v0").describe([position, 0.0]) for position in (-0.9, -0.8, -0.5)]
    assert describer.describe([-0.9, 0.0]) == " before ".join(texts)


@pytest.mark.parametrize(("env_id", "observation"), [*SAMPLES.items(), ("MiniGrid-DoorKey-5x5-v0", view(KEY))])
def test_nothing_is_remembered_at_first(env_id, observation):
    plain, describer = describer_for(env_id), Remembering(describer_for(env_id), 3)
    assert describer.describe(observation) == plain.describe(observation)
    assert (describer.task, describer.actions, describer.env_id) == (plain.task, plain.actions, env_id)
    assert describer.legal_actions(observation) == plain.legal_actions(observation)


@pytest.mark.parametrize("reach", [-1, 0, MAX_REACH + 1])
def test_a_reach_without_words_is_refused(reach):
    with pytest.raises(InvalidRequest, match="expected 1 to 40"):
        lake(reach)


def test_what_an_environment_writes_over_is_remembered_as_it_was():
    describer, array = Remembering(describer_for("MountainCar-v0"), 2), np.array([-0.8, 0.0])
    describer.see(array)
    array[:] = 0.0
    assert describer.describe([-0.9, 0.0]).endswith(describer_for("MountainCar-v0").describe([-0.8, 0.0]))


def test_no_memory_is_the_describer_itself():
    plain = describer_for("Taxi-v4")
    assert remembering(plain, 0) is plain


def test_a_past_that_cannot_be_read_is_refused():
    describer = lake(2)
    describer.see(99)
    with pytest.raises(InvalidRequest, match="state"):
        describer.describe(1)
