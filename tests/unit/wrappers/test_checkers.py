"""Gymnasium's and stable-baselines3's own checks of wrapped environments."""

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_stable_baselines3

from hintwise.wrappers import DescribeObservation, GuidanceReward, HintObservation

WRAPPED = {
    "described": lambda env, client: DescribeObservation(env),
    "described beside numbers": lambda env, client: DescribeObservation(env, keep_observation=True),
    "hinted": lambda env, client: HintObservation(env, client, dropout=0.5),
    "hinted in words": lambda env, client: HintObservation(DescribeObservation(env), client),
    "potential": lambda env, client: GuidanceReward(env, client, gamma=0.99),
    "alignment": lambda env, client: GuidanceReward(env, client, form="alignment", hint="push left"),
    "all three": lambda env, client: GuidanceReward(
        HintObservation(DescribeObservation(env), client), client, gamma=0.99
    ),
}
OF_NUMBERS = ["hinted", "potential", "alignment"]
"""What stable-baselines3 can train on: it knows no Text space."""


def complaints(check, env):
    """What a check warns of; an error is raised."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(env)
    return {str(warning.message) for warning in caught if "different from the unwrapped version" not in str(warning)}


@pytest.mark.parametrize("name", WRAPPED)
def test_gymnasium_finds_no_more_than_in_the_bare_environment(answering, name):
    def check(env):
        check_env(env, skip_render_check=True)

    bare = complaints(check, gymnasium.make("CartPole-v1"))
    assert complaints(check, WRAPPED[name](gymnasium.make("CartPole-v1"), answering.client)) <= bare


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_stable_baselines3_finds_nothing(answering, name):
    assert not complaints(
        lambda env: check_for_stable_baselines3(env, skip_render_check=True),
        WRAPPED[name](gymnasium.make("CartPole-v1"), answering.client),
    )
