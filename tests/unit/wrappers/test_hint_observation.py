"""Hints beside observations: whose, in which form, for how long, and who goes without."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text

from hintwise.advising import asking
from hintwise.advising.asking import UnusableAnswer
from hintwise.describers import describer_for
from hintwise.errors import InvalidRequest, Unavailable
from hintwise.wrappers import DescribeObservation, HintObservation
from hintwise.wrappers import vector as vectors

LEFT, DOWN, RIGHT = 0, 1, 2
ACTIONS = ["left", "down", "right", "up"]


def told(number):
    """The text of a place on the lake."""
    return describer_for("FrozenLake-v1").describe(number)


def test_numbers_get_the_action_that_the_hint_names(answering, lake):
    env = HintObservation(lake(), answering.client)
    assert env.observation_space == Dict({"observation": Discrete(16), "hint": Box(0, 1, (4,), np.float32)})
    observation, info = env.reset(seed=1)
    assert observation in env.observation_space
    assert observation["observation"] == 0
    np.testing.assert_array_equal(observation["hint"], [0, 0, 1, 0])
    assert info["hint"] == answering.hint(told(0))
    assert answering.to("/guidance") == [
        {"observations": [told(0)], "actions": [ACTIONS], "task": describer_for("FrozenLake-v1").task}
        | {"temperature": 0.0, "seed": [0]}
    ]


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        ("go right", "right"),
        ("Down, then right", "down"),
        ("upright is not a way", None),
        ("", None),
        ("go up to reach the goal on the left", "up"),
    ],
)
def test_the_action_named_first_is_the_one(answering, lake, hint, named):
    answering.hint = lambda text: hint
    observation, _ = HintObservation(lake(), answering.client).reset()
    np.testing.assert_array_equal(observation["hint"], [action == named for action in ACTIONS])


def test_of_two_names_at_one_place_the_longer_is_meant(answering):
    answering.hint = lambda text: "turn left now"

    class Turning:
        env_id, task, actions = "FrozenLake-v1", "", ["turn", "turn left", "left", "now"]
        describe, legal_actions = staticmethod(str), staticmethod(lambda observation: [0, 1, 2, 3])

    observation, _ = HintObservation(gymnasium.make("FrozenLake-v1"), answering.client, describer=Turning()).reset()
    np.testing.assert_array_equal(observation["hint"], [0, 1, 0, 0])


def test_texts_get_a_line(answering, lake):
    env = HintObservation(DescribeObservation(lake()), answering.client)
    assert isinstance(env.observation_space, Text)
    text, info = env.reset()
    assert text == f"{told(0)}\nhint: {info['hint']}"
    assert text in env.observation_space
    answering.hint = lambda text: ""
    text, _, _, _, info = env.step(RIGHT)
    assert (text, info["hint"]) == (told(1), "")


@pytest.mark.parametrize(("inner", "form"), [("text", "action"), ("both", None), ("both", "text"), ("numbers", "text")])
def test_other_forms(answering, lake, inner, form):
    env = lake() if inner == "numbers" else DescribeObservation(lake(), keep_observation=inner == "both")
    env = HintObservation(env, answering.client, form=form)
    observation, info = env.reset()
    assert observation in env.observation_space
    assert set(observation) == {"observation", "hint"} | ({"text"} if inner == "both" else set())
    if form == "text":
        assert observation["hint"] == info["hint"]
    else:
        np.testing.assert_array_equal(observation["hint"], [0, 0, 1, 0])


def test_the_same_state_is_asked_about_once(answering, lake):
    env = HintObservation(lake(), answering.client)
    hints = [env.reset()[1]["hint"]]
    hints += [env.step(action)[4]["hint"] for action in (RIGHT, LEFT, RIGHT, LEFT)]
    assert [body["observations"] for body in answering.to("/guidance")] == [[told(0)], [told(1)]]
    assert hints == [answering.hint(told(number)) for number in (0, 1, 0, 1, 0)]


def test_another_model_is_asked_anew(answering, lake):
    env = HintObservation(lake(), answering.client)
    env.reset()
    answering.guide = "b" * 64
    answering.hint = lambda text: "go left"
    assert env.step(RIGHT)[4]["hint"] == "go left"
    assert env.step(LEFT)[4]["hint"] == "go left"  # what the model before said here is forgotten


@pytest.mark.parametrize(
    ("every", "asked_at"), [(1, [0, 1, 2, 6, 10]), (2, [0, 2, 10]), (3, [0, 6]), (None, [0])], ids=str
)
def test_a_hint_is_held(answering, lake, every, asked_at):
    env = HintObservation(lake(), answering.client, every=every)
    env.reset()
    places = [env.step(action)[0]["observation"] for action in (RIGHT, RIGHT, DOWN, DOWN)]
    assert places == [1, 2, 6, 10]
    asked = [body["observations"] for body in answering.to("/guidance")]
    assert asked == [[told(number)] for number in asked_at]


def test_ranked_hints_are_the_environments(answering, lake):
    HintObservation(lake(), answering.client, guidance={"mode": "ranked", "temperature": 0.5, "seed": 7}).reset()
    (body,) = answering.to("/guidance")
    assert (body["mode"], body["candidates"], body["temperature"], body["seed"]) == ("ranked", ACTIONS, 0.5, [7])


def test_a_loop_is_no_hint(answering, lake):
    answering.finish_reason = "degenerate"
    assert HintObservation(lake(), answering.client).reset()[1]["hint"] == ""


# Dropout


def dropped(env, num_episodes, seed):
    """Whether each step of some episodes went without its hint."""
    told = [[env.reset(seed=seed)[1]["hint_dropped"]]]
    for _ in range(num_episodes):
        told[-1] += [env.step(action)[4]["hint_dropped"] for action in (RIGHT, DOWN)]
        told.append([env.reset()[1]["hint_dropped"]])
    return told[:-1]


@pytest.mark.parametrize("per", ["episode", "step"])
def test_dropout_follows_the_seed(answering, lake, per):
    env = HintObservation(lake(), answering.client, dropout=0.5, dropout_per=per)
    first = dropped(env, 200, seed=11)
    assert dropped(env, 200, seed=11) == first
    assert dropped(HintObservation(lake(), answering.client, dropout=0.5, dropout_per=per), 200, seed=11) == first
    assert dropped(env, 200, seed=12) != first
    flat = [each for episode in first for each in episode]
    assert 0.4 < np.mean(flat) < 0.6
    whole = all(len(set(episode)) == 1 for episode in first)
    assert whole == (per == "episode")


def test_without_its_hint_an_observation_shows_none(answering, lake):
    env = HintObservation(lake(), answering.client, dropout=1.0)
    observation, info = env.reset(seed=1)
    np.testing.assert_array_equal(observation["hint"], np.zeros(4))
    assert (info["hint"], info["hint_dropped"]) == ("", True)
    assert HintObservation(DescribeObservation(lake()), answering.client, dropout=1.0).reset(seed=1)[0] == told(0)


def test_dropout_leaves_the_environment_as_it_was(answering):
    bare, env = (gymnasium.make("FrozenLake-v1") for _ in range(2))  # slippery: it draws at each step
    env = HintObservation(env, answering.client, dropout=0.5, dropout_per="step")
    assert env.reset(seed=5)[0]["observation"] == bare.reset(seed=5)[0]
    for _ in range(30):
        (place, *_, over, _, _), (other, *_) = bare.step(RIGHT), env.step(RIGHT)
        assert place == other["observation"]
        if over:
            assert env.reset()[0]["observation"] == bare.reset()[0]


# Failures


def test_a_failure_is_raised_unless_said_otherwise(answering, away, lake):
    env = HintObservation(lake(), answering.client)
    env.reset()
    answering.failure = away
    with pytest.raises(Unavailable, match="stopping"):
        env.step(RIGHT)
    assert env.num_failures == 1


def test_failures_are_counted_warned_of_once_and_made_good(answering, away, lake):
    env = HintObservation(lake(), answering.client, every=None, on_failure="skip")
    answering.failure = away
    with pytest.warns(RuntimeWarning, match=r"stopping.*without a hint"):
        observation, info = env.reset()
    for _ in range(2):
        env.step(LEFT)  # a second warning would be an error
    assert info["hint"] == ""
    np.testing.assert_array_equal(observation["hint"], np.zeros(4))
    assert env.num_failures == 3
    answering.failure = None
    assert env.step(RIGHT)[4]["hint"] == answering.hint(told(1))  # an episode that has none yet asks again
    env.step(LEFT)
    assert answering.to("/guidance")[-1]["observations"] == [told(1)]
    assert env.num_failures == 3


def test_a_service_that_fails_is_left_alone_for_a_while(answering, away, lake, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(asking, "monotonic", lambda: now[0])
    env = HintObservation(lake(), answering.client, on_failure="skip")
    answering.failure = away
    with pytest.warns(RuntimeWarning, match="stopping"):
        env.reset()
    tried_at = []
    for _ in range(400):
        now[0] += 0.5
        so_far = len(answering.asked)
        env.step(LEFT)
        if len(answering.asked) > so_far:
            tried_at.append(now[0] - 100.0)
    assert tried_at == [1.0, 3.0, 7.0, 15.0, 31.0, 61.0, 91.0, 121.0, 151.0, 181.0]


def test_a_refusal_is_raised_even_so(answering, lake, problem):
    answering.failure = lambda: problem(422, "Invalid request", "too long")
    with pytest.raises(InvalidRequest, match="too long"):
        HintObservation(lake(), answering.client, on_failure="skip").reset()


def test_a_hint_that_its_space_does_not_hold_is_a_failure(answering, lake):
    answering.hint = lambda text: "nach rechts über das Eis"
    with pytest.raises(UnusableAnswer, match=r"has 'ü'.*hint_space="):
        HintObservation(lake(), answering.client).reset()
    env = HintObservation(DescribeObservation(lake()), answering.client, on_failure="skip")
    with pytest.warns(RuntimeWarning, match="has 'ü'"):
        text, _ = env.reset()
    assert text == told(0)
    assert env.num_failures == 1
    german = Text(80, min_length=0, charset="abcdefghijklmnopqrstuvwxyzäöüßDE ")
    env = HintObservation(DescribeObservation(lake()), answering.client, hint_space=german)
    text, _ = env.reset()
    assert text.endswith("über das Eis")
    assert text in env.observation_space


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"dropout": 1.5}, "probability"),
        ({"dropout_per": "life"}, "dropout_per"),
        ({"every": 0}, "every is 0"),
        ({"form": "pixels"}, "form is 'pixels'"),
        ({"guidance": {"num_hints": 3}}, "num_hints"),
        ({"on_failure": "ignore"}, "on_failure"),
        ({"hint_space": Text(9), "form": "text"}, "min_length=0"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(list(value)),
)
def test_arguments_that_make_no_sense(answering, lake, arguments, told):
    with pytest.raises(ValueError, match=told):
        HintObservation(lake(), answering.client, **arguments)


def test_a_client_of_ones_own_is_closed_and_a_given_one_is_not(answering, lake):
    env = HintObservation(lake(), answering.client)
    env.close()
    answering.client.guidance(["a"])
    env = HintObservation(lake(), "http://127.0.0.1:9")
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


# Vector environments


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_one_request_carries_the_whole_vector_environment(answering, lakes, mode):
    envs = vectors.HintObservation(lakes(mode, num_envs=4), answering.client)
    observations, infos = envs.reset(seed=1)
    assert observations in envs.observation_space
    assert [body["observations"] for body in answering.to("/guidance")] == [[told(0)]]
    observations, _, _, _, infos = envs.step(np.array([LEFT, DOWN, RIGHT, RIGHT]))
    assert [body["observations"] for body in answering.to("/guidance")[1:]] == [[told(4), told(1)]]
    np.testing.assert_array_equal(observations["observation"], [0, 4, 1, 1])
    np.testing.assert_array_equal(observations["hint"], [[0, 0, 1, 0]] * 4)
    assert list(infos["hint"]) == [answering.hint(told(number)) for number in (0, 4, 1, 1)]
    assert infos["_hint"].all()


def test_more_than_a_request_may_hold_goes_in_several(answering):
    envs = gymnasium.make_vec("CliffWalking-v1", num_envs=300, vectorization_mode="sync")
    counting = iter(range(1_000))

    class Numbered:
        env_id, task, actions = "CliffWalking-v1", "", ["up", "right", "down", "left"]
        legal_actions = staticmethod(lambda observation: [0, 1, 2, 3])

        def describe(self, observation):
            return f"place {next(counting)}"

    _, infos = vectors.HintObservation(envs, answering.client, describer=Numbered()).reset(seed=1)
    assert [len(body["observations"]) for body in answering.to("/guidance")] == [256, 44]
    assert list(infos["hint"]) == [answering.hint(f"place {i}") for i in range(300)]


@pytest.mark.parametrize("per", ["episode", "step"])
def test_each_goes_without_as_it_would_alone(answering, lake, lakes, per):
    envs = vectors.HintObservation(lakes("NextStep", num_envs=3), answering.client, dropout=0.5, dropout_per=per)
    together = [envs.reset(seed=40)[1]["hint_dropped"]]
    for _ in range(50):
        # The third step is the autoreset.
        together += [envs.step(np.full(3, action))[4]["hint_dropped"] for action in (RIGHT, DOWN, LEFT)]
    for i in range(3):
        env = HintObservation(lake(), answering.client, dropout=0.5, dropout_per=per)
        alone = dropped(env, 51, seed=40 + i)
        assert [bool(each[i]) for each in together] == [each for episode in alone for each in episode][: len(together)]


def test_the_same_step_shows_the_last_hint_in_infos(answering, lakes):
    envs = vectors.HintObservation(vectors.DescribeObservation(lakes("SameStep")), answering.client)
    envs.reset(seed=1)
    envs.step(np.array([RIGHT, LEFT]))
    texts, _, terminated, _, infos = envs.step(np.array([DOWN, LEFT]))
    assert list(terminated) == [True, False]
    assert texts == (f"{told(0)}\nhint: {answering.hint(told(0))}",) * 2
    assert infos["final_obs"][0] == f"{told(5)}\nhint: {answering.hint(told(5))}"
    assert infos["final_obs"][0] in envs.single_observation_space


def test_texts_told_in_other_processes_are_read(answering):
    def make():
        return DescribeObservation(gymnasium.make("FrozenLake-v1", is_slippery=False))

    envs = gymnasium.vector.AsyncVectorEnv([make, make])
    with pytest.raises(ValueError, match="shared_memory=False"):
        vectors.HintObservation(envs, answering.client, describer="FrozenLake-v1")
    envs.close()
    envs = gymnasium.vector.AsyncVectorEnv([make, make], shared_memory=False)
    try:
        hinted = vectors.HintObservation(envs, answering.client, describer="FrozenLake-v1")
        texts, _ = hinted.reset(seed=1)
        assert texts == (f"{told(0)}\nhint: {answering.hint(told(0))}",) * 2
        assert texts in hinted.observation_space
    finally:
        envs.close()
