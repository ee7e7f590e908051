import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.buffers import Rollout, explained_variance, generalized_advantages, next_values


def naive_advantages(rollout, gamma, gae_lambda):
    """Sums (gamma * lambda)^k * delta_{t+k} forwards until the episode or the rollout ends."""
    num_steps, num_envs = rollout.rewards.shape
    advantages = np.zeros((num_steps, num_envs))
    for n in range(num_envs):
        for t in range(num_steps):
            weight = 1.0
            for k in range(t, num_steps):
                if rollout.terminated[k, n]:
                    following = 0.0
                elif rollout.truncated[k, n]:
                    following = rollout.bootstrap_values[k, n]
                elif k + 1 < num_steps:
                    following = rollout.values[k + 1, n]
                else:
                    following = rollout.last_values[n]
                delta = rollout.rewards[k, n] + gamma * following - rollout.values[k, n]
                advantages[t, n] += weight * delta
                weight *= gamma * gae_lambda
                if rollout.terminated[k, n] or rollout.truncated[k, n]:
                    break
    return advantages


def random_rollout(seed, num_steps=7, num_envs=3):
    generator = np.random.default_rng(seed)
    rollout = Rollout.empty(num_steps, num_envs)
    for name in ("values", "rewards", "bootstrap_values"):
        getattr(rollout, name)[:] = generator.normal(size=(num_steps, num_envs))
    rollout.last_values[:] = generator.normal(size=num_envs)
    rollout.terminated[:] = generator.random((num_steps, num_envs)) < 0.2
    rollout.truncated[:] = generator.random((num_steps, num_envs)) < 0.2
    return rollout


@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_advantages_equal_the_sum_written_out(seed, gamma, gae_lambda):
    rollout = random_rollout(seed)
    expected = naive_advantages(rollout, gamma, gae_lambda)
    np.testing.assert_allclose(rollout.advantages(gamma=gamma, gae_lambda=gae_lambda), expected, atol=1e-9)


def one_step(**changed):
    rollout = Rollout.empty(1, 1)
    rollout.rewards[:], rollout.values[:], rollout.last_values[:], rollout.bootstrap_values[:] = 1.0, 2.0, 5.0, 3.0
    for name, value in changed.items():
        getattr(rollout, name)[:] = value
    return rollout.advantages(gamma=0.5, gae_lambda=0.9)[0, 0]


def test_a_terminal_state_is_worth_nothing():
    assert one_step(terminated=True) == 1 - 2


def test_a_time_limit_bootstraps_from_the_final_observation():
    assert one_step(truncated=True) == 1 + 0.5 * 3 - 2


def test_a_step_that_terminates_at_the_limit_is_terminal():
    assert one_step(terminated=True, truncated=True) == 1 - 2


def test_an_unfinished_episode_bootstraps_from_the_observation_after_the_rollout():
    assert one_step() == 1 + 0.5 * 5 - 2


def test_nothing_flows_over_the_end_of_an_episode():
    rollout = random_rollout(0)
    rollout.terminated[:], rollout.truncated[:] = False, False
    rollout.truncated[3, 0] = rollout.terminated[3, 1] = True
    before = rollout.advantages(gamma=0.9, gae_lambda=0.9)[:4, :2]
    rollout.rewards[4:] += 100
    np.testing.assert_array_equal(rollout.advantages(gamma=0.9, gae_lambda=0.9)[:4, :2], before)


def test_stale_transitions_take_part_in_the_advantages():
    rollout = random_rollout(1)
    before = rollout.advantages(gamma=0.9, gae_lambda=0.9)
    rollout.stale[:] = True
    np.testing.assert_array_equal(rollout.advantages(gamma=0.9, gae_lambda=0.9), before)


def test_next_values_shift_by_one_step():
    values, last = np.array([[1.0], [2.0]]), np.array([3.0])
    never = np.zeros((2, 1), bool)
    np.testing.assert_array_equal(next_values(values, last, never, never, values), [[2.0], [3.0]])


def test_lambda_zero_is_the_one_step_error():
    ended = np.zeros((2, 1), bool)
    got = generalized_advantages(
        np.ones((2, 1)), np.zeros((2, 1)), np.full((2, 1), 2.0), ended, gamma=0.5, gae_lambda=0.0
    )
    np.testing.assert_array_equal(got, [[2.0], [2.0]])


@pytest.mark.parametrize(("values", "expected"), [([1.0, 2.0, 3.0], 1.0), ([2.0, 2.0, 2.0], 0.0)])
def test_explained_variance(values, expected):
    assert explained_variance(np.array(values), np.array([1.0, 2.0, 3.0])) == expected


def test_explained_variance_of_constant_returns_is_undefined():
    assert np.isnan(explained_variance(np.array([1.0, 2.0]), np.array([3.0, 3.0])))
