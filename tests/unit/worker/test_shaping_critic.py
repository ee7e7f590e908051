"""The critic of what guidance pays: that it learns it, and that the policy's own is left with the environment."""

import numpy as np
import pytest
import torch

from hintwise.policy import Policy
from worker.algorithms.actor_critic import estimate
from worker.algorithms.algorithm import NOTHING, AlgorithmState
from worker.algorithms.build import build_algorithm
from worker.algorithms.hyperparameters import ActorCriticHyperparameters
from worker.algorithms.shaping_critic import ShapingCritic
from worker.buffers import Rollout
from worker.config import TrainConfig
from worker.errors import CheckpointUnusable
from worker.seeds import minibatch_generator

PHRASES = ("push left", "push right")
GAMMA, GAE_LAMBDA = 0.9, 0.8
HYPER = ActorCriticHyperparameters(gamma=GAMMA, gae_lambda=GAE_LAMBDA)


@pytest.fixture
def policy(language_model):
    return Policy(language_model)


def critic_of(policy, encoder):
    return ShapingCritic(policy, encoder, gamma=GAMMA, gae_lambda=GAE_LAMBDA)


def rollout_of(seed=0, *, num_steps=16, num_envs=4, pay=lambda place: float(place)):
    """Walks along places 0 to 3 that end behind the last one; guidance pays `pay(place)`, the environment 1 a step."""
    generator = np.random.default_rng(seed)
    rollout = Rollout.empty(num_steps, num_envs)
    places = generator.integers(4, size=num_envs)
    for s in range(num_steps):
        rollout.prompts += [f"place: {place}\naction:" for place in places]
        rollout.action_phrases += [PHRASES] * num_envs
        rollout.shaping[s] = [pay(place) for place in places]
        rollout.terminated[s] = places == 3
        places = np.where(places == 3, 0, places + 1)
    rollout.last_states = [(f"place: {place}\naction:", PHRASES) for place in places]
    rollout.rewards = 1 + rollout.shaping
    return rollout


def truth(place, pay=float):
    return sum(GAMMA ** (later - place) * pay(later) for later in range(place, 4))


def expected(critic, rollout):
    """Returns what the critic expects at each step of a rollout."""
    states = critic._states(list(zip(rollout.prompts, rollout.action_phrases, strict=True)))
    return (states @ critic._weights).reshape(rollout.shaping.shape)


def test_it_learns_what_will_be_paid(policy, encoder):
    critic = critic_of(policy, encoder)
    for seed in range(20):
        critic.advantages(rollout_of(seed, num_steps=128))
    rollout = rollout_of(99)
    wanted = [truth(int(prompt[7])) for prompt in rollout.prompts]
    np.testing.assert_allclose(expected(critic, rollout).reshape(-1), wanted, rtol=0.1)
    critic.advantages(rollout)
    assert critic.explained_variance > 0.9


def test_what_was_expected_is_no_advantage(policy, encoder):
    critic = critic_of(policy, encoder)
    first = critic.advantages(rollout_of())
    for seed in range(20):
        last = critic.advantages(rollout_of(seed, num_steps=128))
    assert np.abs(first).max() > 1
    assert np.abs(last).max() < 0.25


def test_it_forgets_what_is_no_longer_paid(policy, encoder):
    critic = critic_of(policy, encoder)
    for seed in range(20):
        critic.advantages(rollout_of(seed))
    assert expected(critic, rollout_of(99)).min() > 2
    critic.advantages(rollout_of(1, pay=lambda place: 0.0))
    assert np.abs(expected(critic, rollout_of(99))).max() < 3
    for seed in range(20):
        critic.advantages(rollout_of(seed, pay=lambda place: 0.0))
    assert np.abs(expected(critic, rollout_of(99))).max() < 0.01


def test_an_episode_that_a_time_limit_cut_goes_on(policy, encoder):
    critic = critic_of(policy, encoder)
    for seed in range(20):
        critic.advantages(rollout_of(seed, num_steps=128))
    rollout = rollout_of(99, num_steps=1, num_envs=2)
    rollout.prompts = ["place: 1\naction:"] * 2
    rollout.shaping[:], rollout.terminated[:], rollout.truncated[:] = 1.0, False, [[True, False]]
    rollout.final_states = {0: ("place: 2\naction:", PHRASES)}
    rollout.last_states = [("place: 0\naction:", PHRASES), ("place: 2\naction:", PHRASES)]
    np.testing.assert_allclose(critic.advantages(rollout), 0.0, atol=0.25)


def test_the_policy_s_own_critic_is_left_with_the_environment_s_reward(policy, encoder):
    paid, unpaid = rollout_of(), rollout_of(pay=lambda place: 0.0)
    estimates = estimate(paid, HYPER, critic_of(policy, encoder))
    alone = estimate(unpaid, HYPER, None)
    np.testing.assert_allclose(estimates.returns, alone.returns)
    np.testing.assert_allclose(
        estimates.advantages, alone.advantages + critic_of(policy, encoder).advantages(paid), atol=1e-9
    )


def test_without_it_one_critic_expects_both(policy, encoder):
    rollout = rollout_of()
    estimates = estimate(rollout, HYPER, None)
    np.testing.assert_allclose(estimates.returns, rollout.advantages(gamma=GAMMA, gae_lambda=GAE_LAMBDA))
    assert np.isnan(estimates.shaping_explained_variance)


def test_where_all_states_are_alike_it_expects_the_mean(policy, encoder):
    critic = critic_of(policy, encoder)
    rollout = rollout_of(num_steps=1, num_envs=2)
    rollout.prompts, rollout.terminated[:] = ["place: 1\naction:"] * 2, True
    rollout.shaping[:] = [[0.2, 0.4]]
    critic.advantages(rollout)
    np.testing.assert_allclose(expected(critic, rollout), 0.3)


def test_a_checkpoint_goes_on_exactly(policy, encoder):
    critic, again = critic_of(policy, encoder), critic_of(policy, encoder)
    critic.advantages(rollout_of(1))
    again.restore(critic.state())
    for seed in (2, 3):
        np.testing.assert_array_equal(critic.advantages(rollout_of(seed)), again.advantages(rollout_of(seed)))


def test_what_a_checkpoint_holds_does_not_change_with_the_critic(policy, encoder):
    critic = critic_of(policy, encoder)
    state = critic.state()
    critic.advantages(rollout_of(1))
    assert not any(tensor.any() for tensor in state.tensors.values())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (NOTHING, "no critic of what guidance pays"),
        (AlgorithmState({"shaping/weights": torch.zeros(3, dtype=torch.float64)}, {}), "a model of another width"),
    ],
)
def test_a_checkpoint_without_it_or_with_another_model_s_is_refused(policy, encoder, state, said):
    with pytest.raises(CheckpointUnusable, match=said):
        critic_of(policy, encoder).restore(state)


def test_where_nothing_was_paid_nothing_is_explained(policy, encoder):
    critic = critic_of(policy, encoder)
    critic.advantages(rollout_of())
    critic.advantages(rollout_of(pay=lambda place: 0.0))
    assert np.isnan(critic.explained_variance)


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
@pytest.mark.parametrize("guidance", ["none", "observation", "reward", "both"])
def test_actor_critic_has_one_where_guidance_pays(policy, encoder, algorithm, guidance):
    config = TrainConfig(env_id="CartPole-v1", algorithm=algorithm, guidance=guidance)
    built = build_algorithm(config, policy, encoder, minibatch_generator(1))
    pays = guidance in ("reward", "both")
    assert (built.shaping_critic is not None) == pays
    assert bool(built.state().tensors) == pays
    metrics = built.update(rollout_of(), learning_rate=1e-4)
    assert np.isfinite(metrics.shaping_explained_variance) == pays
    if pays:
        kept = built.state()
        assert kept.tensors["shaping/weights"].any()
        again = build_algorithm(config, policy, encoder, minibatch_generator(1))
        again.restore(kept)
        assert torch.equal(again.state().tensors["shaping/weights"], kept.tensors["shaping/weights"])
