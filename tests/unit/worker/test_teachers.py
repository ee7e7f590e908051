"""What teachers say is right is what their worlds reward."""

import gymnasium
import pytest

from hintwise.describers import describer_for
from hintwise.describers.memory import Remembering, remembering
from worker.teachers import teacher_for
from worker.teachers.classic_control import bin_centre
from worker.teachers.toy_text import GridWalkTeacher


def play(env, teacher, seed, max_steps=600):
    phrases = describer_for(env).actions
    observation, _ = env.reset(seed=seed)
    total, steps, ended = 0.0, 0, False
    while not ended and steps < max_steps:
        right = teacher.actions(observation)
        assert teacher.hint(observation)
        observation, reward, terminated, truncated, _ = env.step(phrases.index(right[0]))
        total, steps, ended = total + float(reward), steps + 1, terminated or truncated
    return total


@pytest.mark.parametrize("seed", [900_000, 900_001])
def test_cart_pole_stands_to_the_end(seed):
    assert play(gymnasium.make("CartPole-v1"), teacher_for("CartPole-v1"), seed) == 500


class Contrary:
    """Takes the last of the right actions."""

    def __init__(self, teacher):
        self.hint = teacher.hint
        self.actions = lambda observation: teacher.actions(observation)[::-1]


def test_either_push_is_right_where_the_numbers_are_nearly_even():
    assert play(gymnasium.make("CartPole-v1"), Contrary(teacher_for("CartPole-v1")), 900_000) == 500


def test_mountain_car_comes_up():
    assert play(gymnasium.make("MountainCar-v0"), teacher_for("MountainCar-v0"), 900_000) > -200


@pytest.mark.parametrize("seed", range(900_000, 900_010))
def test_taxi_brings_every_passenger(seed):
    assert play(gymnasium.make("Taxi-v4"), teacher_for("Taxi-v4"), seed) > 0


def test_cliff_walking_takes_a_shortest_path():
    assert play(gymnasium.make("CliffWalking-v1"), teacher_for("CliffWalking-v1"), 900_000) == -13


def test_one_push_is_right_where_the_pole_leans():
    assert teacher_for("CartPole-v1").actions([0.0] * 4) == ["push left", "push right"]
    assert teacher_for("CartPole-v1").actions([0.0, 0.0, 0.1, 0.0]) == ["push right"]


def test_a_bin_stands_for_its_middle():
    assert bin_centre(20, 2.4) == 0
    assert bin_centre(40, 2.4) == pytest.approx(2.4)
    assert bin_centre(13, 2.4) == pytest.approx(-bin_centre(27, 2.4))


def lake(*rows):
    env = gymnasium.make("FrozenLake-v1", desc=list(rows), is_slippery=False)
    return GridWalkTeacher(describer_for(env))


def test_a_walk_never_steps_into_a_drop():
    teacher = lake("SHF", "FFF", "FFG")
    assert teacher.actions(0) == ["down"]
    assert teacher.hint(0) == "go down to reach the goal"


def test_a_walk_turns_back_in_a_pocket():
    assert lake("SFH", "FHF", "FFG").actions(1) == ["left"]


def test_a_lake_without_a_goal_has_nothing_right():
    teacher = lake("SFF", "FFF", "FFF")
    assert teacher.actions(0) == []
    assert teacher.hint(0) == ""


def test_a_memory_leads_out_of_a_pocket():
    """The nearest sides lead into a dead end; whoever does not know where it has stood goes back into it for ever."""
    env = gymnasium.make(
        "FrozenLake-v1", desc=["SFFHFF", "FHHHFF", "FFFFFF", "FFFFFG"], is_slippery=False, max_episode_steps=60
    )

    def arrives(reach):
        describer = remembering(describer_for(env), reach)
        teacher = GridWalkTeacher(describer)
        observation, _ = env.reset(seed=0)
        reward = ended = 0
        while not ended:
            action = describer.actions.index(teacher.actions(observation)[0])
            if isinstance(describer, Remembering):
                describer.see(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
        return reward > 0

    assert not arrives(0)
    assert arrives(40)
