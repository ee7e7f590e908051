"""Advantages and losses against stable-baselines3's own code, on the same numbers."""

import math

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import nn

from hintwise.policy import Policy
from hintwise.scoring import score
from worker.algorithms.a2c import A2C
from worker.algorithms.algorithm import scored_prompts
from worker.algorithms.dqn import DQN
from worker.algorithms.hyperparameters import A2CHyperparameters, DQNHyperparameters, PPOHyperparameters
from worker.algorithms.ppo import PPO
from worker.buffers import Rollout
from worker.seeds import minibatch_generator

S, N, NUM_ACTIONS = 12, 4, 3
PHRASES = ("push left", "push right", "wait")
GAMMA, GAE_LAMBDA = 0.97, 0.9
CLOSE = {"rel": 1e-5, "abs": 1e-5}
NUMBERS = gymnasium.spaces.Box(0, S * N, (1,))
ACTIONS = gymnasium.spaces.Discrete(NUM_ACTIONS)


class Nowhere(gymnasium.Env):
    """What their algorithms want to be made with; it is never stepped."""

    observation_space, action_space = NUMBERS, ACTIONS


@pytest.fixture
def policy(language_model):
    torch.manual_seed(3)
    policy = Policy(language_model)
    nn.init.normal_(policy.value_head.weight, std=0.5)
    return policy


@pytest.fixture
def rollout(policy, encoder):
    """Transitions with ends of both kinds, chosen by a policy that differs a little from the one that learns."""
    generator = np.random.default_rng(5)
    rollout = Rollout.empty(S, N)
    rollout.prompts = [f"state: {number}\naction:" for number in range(S * N)]
    rollout.action_phrases = [PHRASES] * (S * N)
    with torch.no_grad():
        output = score(policy, scored_prompts(rollout, policy, encoder))
    rollout.actions[:] = generator.integers(NUM_ACTIONS, size=(S, N))
    chosen = output.log_probs.gather(1, torch.from_numpy(rollout.actions.reshape(-1, 1))).reshape(S, N).numpy()
    rollout.log_probs[:] = chosen + generator.normal(0, 0.2, (S, N))
    rollout.values[:] = output.values.reshape(S, N).numpy() + generator.normal(0, 0.3, (S, N))
    rollout.rewards[:] = generator.normal(0, 1, (S, N))
    rollout.terminated[:] = generator.random((S, N)) < 0.15
    rollout.truncated[:] = ~rollout.terminated & (generator.random((S, N)) < 0.15)
    rollout.bootstrap_values[:] = np.where(rollout.truncated, generator.normal(0, 1, (S, N)), 0)
    rollout.last_values[:] = generator.normal(0, 1, N)
    assert rollout.terminated.any()
    assert rollout.truncated.any()
    return rollout


def their_buffer(rollout):
    """Their buffer, filled as their `collect_rollouts` does: a time limit's value is added to the reward."""
    buffer = RolloutBuffer(S, NUMBERS, ACTIONS, "cpu", GAE_LAMBDA, GAMMA, N)
    ended = rollout.terminated | rollout.truncated
    started = np.ones(N)
    for s in range(S):
        rewards = rollout.rewards[s] + GAMMA * rollout.bootstrap_values[s]
        numbers = np.arange(s * N, (s + 1) * N, dtype=np.float32)[:, None]
        told = (torch.from_numpy(array[s].astype(np.float32)) for array in (rollout.values, rollout.log_probs))
        buffer.add(numbers, rollout.actions[s][:, None], rewards, started, *told)
        started = ended[s].astype(np.float32)
    buffer.compute_returns_and_advantage(torch.from_numpy(rollout.last_values).float(), started)
    return buffer


def their_losses(algorithm, rollout, policy, encoder, **settings):
    """What their training step logs, with our policy's log-probabilities in place of their network's."""
    theirs = algorithm(
        "MlpPolicy", Nowhere(), n_steps=S * N, gamma=GAMMA, gae_lambda=GAE_LAMBDA, device="cpu", **settings
    )
    logger = Logger(None, [])
    theirs.set_logger(logger)
    theirs.rollout_buffer = their_buffer(rollout)
    prompts = scored_prompts(rollout, policy, encoder)

    def evaluate_actions(observations, actions):
        output = score(policy, [prompts[int(number)] for number in observations.flatten()])
        finite = output.log_probs.exp() * output.log_probs
        return output.values, output.log_probs.gather(1, actions.reshape(-1, 1)).flatten(), -finite.sum(1)

    theirs.policy.evaluate_actions = evaluate_actions
    theirs.train()
    return logger.name_to_value


def test_advantages_are_theirs(rollout):
    theirs = their_buffer(rollout).advantages
    np.testing.assert_allclose(rollout.advantages(gamma=GAMMA, gae_lambda=GAE_LAMBDA), theirs, rtol=1e-5, atol=1e-5)


def test_ppo_s_losses_are_theirs(rollout, policy, encoder):
    theirs = their_losses(stable_baselines3.PPO, rollout, policy, encoder, n_epochs=1, batch_size=S * N)
    hyper = PPOHyperparameters(gamma=GAMMA, gae_lambda=GAE_LAMBDA, update_epochs=1, minibatch_size=S * N)
    ours = PPO(policy, encoder, hyper, minibatch_generator(1)).update(rollout, learning_rate=1e-3)
    assert ours.policy_loss == pytest.approx(theirs["train/policy_gradient_loss"], **CLOSE)
    assert ours.value_loss == pytest.approx(theirs["train/value_loss"], **CLOSE)
    assert ours.entropy == pytest.approx(-theirs["train/entropy_loss"], **CLOSE)
    assert ours.approx_kl == pytest.approx(theirs["train/approx_kl"], **CLOSE)
    assert ours.clip_fraction == pytest.approx(theirs["train/clip_fraction"], **CLOSE)
    assert 0 < ours.clip_fraction < 1


def test_a2c_s_losses_are_theirs(rollout, policy, encoder):
    theirs = their_losses(stable_baselines3.A2C, rollout, policy, encoder)
    hyper = A2CHyperparameters(gamma=GAMMA, gae_lambda=GAE_LAMBDA)
    ours = A2C(policy, encoder, hyper, None).update(rollout, learning_rate=1e-3)
    assert ours.policy_loss == pytest.approx(theirs["train/policy_loss"], **CLOSE)
    assert ours.value_loss == pytest.approx(theirs["train/value_loss"], **CLOSE)
    assert ours.entropy == pytest.approx(-theirs["train/entropy_loss"], **CLOSE)
    assert ours.explained_variance == pytest.approx(theirs["train/explained_variance"], **CLOSE)


class Table(nn.Module):
    """Stands for their network: the values of numbered states."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, numbers):
        return self.values[numbers.flatten().long()]


def test_dqn_s_loss_is_theirs(rollout, policy, encoder):
    policy.q_scale.fill_(2.0)
    hyper = DQNHyperparameters(
        gamma=GAMMA, double_q=False, learning_starts=0, gradient_steps=1, minibatch_size=64, n_step=1
    )
    ours = DQN(policy, encoder, hyper, minibatch_generator(1))
    seen = [("state: 90\naction:", PHRASES), ("state: 91\naction:", PHRASES)]
    rollout.last_states = [seen[0]] * N
    rollout.final_states = {int(i): seen[1] for i in np.flatnonzero(rollout.truncated)}
    with torch.no_grad():
        texts = [*rollout.prompts, seen[0][0], seen[1][0]]
        prompts = encoder.scored(texts, [policy.candidates(encoder, PHRASES)] * len(texts))
        table = score(policy, prompts).scores.clone()
    drawn = minibatch_generator(1).integers(S * N, size=64)  # what ours will draw first
    following = np.where(rollout.truncated.ravel(), S * N + 1, np.minimum(np.arange(S * N) + N, S * N))

    def column(array):
        return torch.from_numpy(array.reshape(-1)[drawn].astype(np.float32))[:, None]

    theirs = stable_baselines3.DQN("MlpPolicy", Nowhere(), gamma=GAMMA, device="cpu", buffer_size=1)
    theirs.set_logger(logger := Logger(None, []))
    theirs.q_net, theirs.q_net_target = Table(table), Table(table.clone())
    sample = ReplayBufferSamples(
        column(np.arange(S * N)),
        column(rollout.actions),
        column(following),
        column(rollout.terminated),
        column(rollout.rewards),
    )
    theirs.replay_buffer.sample = lambda size, env=None: sample
    theirs.train(1, 64)
    metrics = ours.update(rollout, learning_rate=1e-3)
    assert metrics.num_minibatches == 1
    assert metrics.td_loss == pytest.approx(logger.name_to_value["train/loss"], **CLOSE)
    assert math.isfinite(metrics.mean_q)
