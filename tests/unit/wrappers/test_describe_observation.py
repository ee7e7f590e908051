"""Observations as text: what is told, in which space, with which memory."""

import gymnasium
import minigrid  # noqa: F401 (registers its levels)
import numpy as np
import pytest
from gymnasium.spaces import Dict, Discrete, Text

from hintwise.describers import describer_for
from hintwise.describers.memory import Remembering
from hintwise.errors import InvalidRequest
from hintwise.wrappers import DescribeObservation
from hintwise.wrappers import vector as vectors

RIGHT, DOWN, UP = 2, 1, 3
TO_THE_GOAL = [DOWN, DOWN, RIGHT, RIGHT, DOWN, RIGHT]
INTO_A_HOLE = [RIGHT, DOWN]


class Telling:
    """A describer of frozen lakes with words of its own."""

    env_id, task, actions = "FrozenLake-v1", "Get there.", ["left", "down", "right", "up"]

    def __init__(self, word):
        self.word = word

    def describe(self, observation):
        return f"{self.word} {observation}"

    def legal_actions(self, observation):
        return [0, 1, 2, 3]


@pytest.mark.parametrize(
    "env_id", ["FrozenLake8x8-v1", "Taxi-v4", "CartPole-v1", "MiniGrid-DoorKey-5x5-v0", "BabyAI-GoToLocal-v0"]
)
@pytest.mark.parametrize("memory", [0, 40])
def test_texts_are_the_describers_and_in_their_space(env_id, memory):
    bare, env = gymnasium.make(env_id), DescribeObservation(gymnasium.make(env_id), memory=memory)
    env.action_space.seed(3)
    for seed in (3, 4, 5):
        told = Remembering(describer_for(bare), memory or 1)
        observation, _ = bare.reset(seed=seed)
        text, _ = env.reset(seed=seed)
        over = False
        while not over:
            assert text == told.describe(observation)
            assert text in env.observation_space
            action = env.action_space.sample()
            if memory:
                told.see(observation)
            observation, _, terminated, truncated, _ = bare.step(action)
            text, *_ = env.step(action)
            over = terminated or truncated
        assert text == told.describe(observation)


def test_a_space_that_does_not_hold_a_text_says_which_argument_mends_it(lake):
    with pytest.raises(InvalidRequest, match=r"has 'é', .*text_space="):
        DescribeObservation(lake(), describer=Telling("étang")).reset()
    with pytest.raises(InvalidRequest, match=r"has 5002 characters.*text_space="):
        DescribeObservation(lake(), describer=Telling("a" * 5_000)).reset()
    space = Text(20, charset="étang 0123456789")
    env = DescribeObservation(lake(), describer=Telling("étang"), text_space=space)
    assert env.reset()[0] == "étang 0"
    assert env.observation_space == space


def test_what_the_environment_shows_may_be_kept(lake):
    env = DescribeObservation(lake(), keep_observation=True)
    assert isinstance(env.observation_space, Dict)
    assert env.observation_space["observation"] == Discrete(16)
    observation, _ = env.reset(seed=1)
    assert observation == {"observation": 0, "text": describer_for("FrozenLake-v1").describe(0)}
    assert env.step(RIGHT)[0]["observation"] == 1
    numbers = gymnasium.wrappers.FilterObservation(env, ["observation"])  # for trainers that know no texts
    assert numbers.reset()[0] == {"observation": 0}


def test_the_map_of_the_environment_is_told(lake):
    env = DescribeObservation(lake(desc=["SHF", "FFF", "FFG"]))
    assert "right drop" in env.reset()[0]


def test_an_environment_is_described_once(lake):
    env = DescribeObservation(lake())
    with pytest.raises(ValueError, match="described already"):
        DescribeObservation(env)
    with pytest.raises(ValueError, match="a wrapper within"):
        DescribeObservation(env, memory=3)
    with pytest.raises(ValueError, match="memory=N"):
        DescribeObservation(lake(), describer=Remembering(describer_for("FrozenLake-v1"), 3))


@pytest.mark.parametrize("keep", [False, True])
def test_a_copy_is_made_from_its_spec(lake, keep):
    env = DescribeObservation(lake(), memory=2, keep_observation=keep)
    copy = gymnasium.make(env.spec)
    assert copy.observation_space == env.observation_space
    assert copy.reset(seed=1)[0] == env.reset(seed=1)[0]


# Vector environments


def singles(actions_of_each, memory):
    """What each environment shows by itself: one list of texts an episode, its last text among them."""
    told = []
    for actions in actions_of_each:
        env = DescribeObservation(gymnasium.make("FrozenLake-v1", is_slippery=False), memory=memory)
        texts = [env.reset()[0]]
        texts += [env.step(action)[0] for action in actions]
        told.append(texts)
    return told


@pytest.mark.parametrize("memory", [0, 5])
def test_the_next_step_begins_a_new_episode_with_an_empty_memory(lakes, memory):
    envs = vectors.DescribeObservation(lakes("NextStep"), memory=memory)
    hole, goal = singles([INTO_A_HOLE, TO_THE_GOAL], memory)
    shown = [envs.reset(seed=1)[0]]
    # Environment 0 falls in with its second action; the third begins anew, whatever it says; then it goes right again.
    for first, second in zip([*INTO_A_HOLE, UP, *INTO_A_HOLE, UP], TO_THE_GOAL, strict=True):
        shown.append(envs.step(np.array([first, second]))[0])
    assert [texts[0] for texts in shown] == [*hole, *hole, hole[0]]
    assert [texts[1] for texts in shown] == goal
    assert all(texts in envs.observation_space for texts in shown)


@pytest.mark.parametrize("memory", [0, 5])
def test_the_same_step_shows_the_last_text_in_infos(lakes, memory):
    envs = vectors.DescribeObservation(lakes("SameStep"), memory=memory)
    hole, goal = singles([INTO_A_HOLE, TO_THE_GOAL], memory)
    shown, finals = [envs.reset(seed=1)[0]], []
    for first, second in zip([*INTO_A_HOLE * 3], TO_THE_GOAL, strict=True):
        texts, _, _, _, infos = envs.step(np.array([first, second]))
        shown.append(texts)
        finals.append(tuple(infos.get("final_obs", [None, None])))
    assert [texts[0] for texts in shown] == [hole[0], hole[1]] * 3 + [hole[0]]
    assert [texts[1] for texts in shown] == [*goal[:-1], goal[0]]
    assert finals == [(None, None), (hole[2], None)] * 2 + [(None, None), (hole[2], goal[-1])]


def test_a_masked_reset_leaves_the_others_alone(lakes):
    envs = vectors.DescribeObservation(lakes("Disabled"), memory=5)
    hole, goal = singles([INTO_A_HOLE, TO_THE_GOAL], 5)
    envs.reset(seed=1)
    for first, second in zip(INTO_A_HOLE, TO_THE_GOAL[:2], strict=True):
        envs.step(np.array([first, second]))
    texts, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert texts == (hole[0], goal[2])
    assert envs.step(np.array([RIGHT, RIGHT]))[0] == (hole[1], goal[3])


def test_a_vector_environment_keeps_what_it_shows(lakes):
    envs = vectors.DescribeObservation(lakes("NextStep"), keep_observation=True)
    observations, _ = envs.reset(seed=1)
    assert observations in envs.observation_space
    np.testing.assert_array_equal(observations["observation"], [0, 0])
    assert observations["text"] == (describer_for("FrozenLake-v1").describe(0),) * 2


def test_environments_in_other_processes_are_described_by_what_they_were_made_of():
    kwargs = {"desc": ["SHF", "FFF", "FFG"], "is_slippery": False}
    envs = gymnasium.make_vec("FrozenLake-v1", num_envs=2, vectorization_mode="async", **kwargs)
    try:
        told = vectors.DescribeObservation(envs)
        texts, _ = told.reset(seed=1)
        assert "right drop" in texts[0]
    finally:
        envs.close()


def test_environments_that_nobody_can_describe_need_a_describer():
    def make():
        return gymnasium.make("FrozenLake-v1")

    envs = gymnasium.vector.AsyncVectorEnv([make])  # without a spec
    try:
        with pytest.raises(ValueError, match="pass describer="):
            vectors.DescribeObservation(envs)
        assert "goal" in vectors.DescribeObservation(envs, describer="FrozenLake-v1").reset(seed=1)[0][0]
    finally:
        envs.close()
