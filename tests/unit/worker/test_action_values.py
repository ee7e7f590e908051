"""DQN and SARSA: what they learn from, what they remember, how they explore."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.buffers import NStepReplayBuffer

from hintwise.policy import Policy
from hintwise.scoring import score
from hintwise.weights import state_of
from worker.algorithms import reading, sarsa
from worker.algorithms.action_values import exploration, explore
from worker.algorithms.algorithm import scored_prompts
from worker.algorithms.dqn import DQN
from worker.algorithms.hyperparameters import DQNHyperparameters, SARSAHyperparameters
from worker.algorithms.replay import ReplayBuffer, n_step_rewards
from worker.algorithms.sarsa import SARSA
from worker.buffers import Behaviour, Rollout
from worker.seeds import minibatch_generator

TWO, THREE = ("push left", "push right"), ("push left", "push right", "wait")
S, N = 4, 2


@pytest.fixture
def policy(language_model):
    policy = Policy(language_model)
    policy.q_scale.fill_(2.0)
    torch.manual_seed(1)
    torch.nn.init.normal_(policy.value_head.weight, std=0.3)
    return policy


def seen(number):
    return f"state: {number}\naction:", (TWO, THREE)[number % 2]


def rollout_from(first=0):
    """Two environments that count on from `first`; one ends at step 1, the other at its time limit at step 2."""
    rollout = Rollout.empty(S, N)
    states = [seen(first + i) for i in range(S * N)]
    rollout.prompts, rollout.action_phrases = [list(part) for part in zip(*states, strict=True)]
    rollout.actions[:] = [[i % 2] * N for i in range(S)]
    rollout.rewards[:] = np.arange(S * N).reshape(S, N)
    rollout.terminated[1, 0] = True
    rollout.truncated[2, 1] = True
    rollout.final_states = {2 * N + 1: seen(90)}
    rollout.last_states = [seen(80), seen(81)]
    rollout.policy_versions[:] = 7
    return rollout


def q_of(policy, encoder, state):
    [prompt] = encoder.scored([state[0]], [policy.candidates(encoder, state[1])])
    with torch.no_grad():
        return score(policy, [prompt]).scores[0].numpy()


# --- what follows a transition


def test_a_transition_leads_where_its_environment_went(policy, encoder):
    buffer = ReplayBuffer(100, policy, encoder)
    buffer.add(rollout_from())
    sample = buffer.sample(4_000, minibatch_generator(1))
    following = dict(zip(sample.goes_on.tolist(), sample.next_prompts, strict=True))
    led = {}
    for i, prompt in enumerate(sample.prompts):
        after = following.get(i)
        led[encoder.tokenizer.decode(prompt.prompt)] = after and encoder.tokenizer.decode(after.prompt)
    expected = {seen(i)[0]: seen(i + N)[0] for i in range(6)} | {seen(6)[0]: seen(80)[0], seen(7)[0]: seen(81)[0]}
    expected |= {seen(2)[0]: None, seen(5)[0]: seen(90)[0]}  # terminal; a time limit
    assert led == expected


def test_a_transition_of_several_steps_ends_where_its_episode_or_the_rollout_does(policy, encoder):
    buffer = ReplayBuffer(100, policy, encoder, n_step=3, gamma=0.5)
    buffer.add(rollout_from())
    sample = buffer.sample(4_000, minibatch_generator(1))
    following = dict(zip(sample.goes_on.tolist(), sample.next_prompts, strict=True))
    found = {}
    for i, prompt in enumerate(sample.prompts):
        after = following.get(i)
        led = after and encoder.tokenizer.decode(after.prompt)
        found[encoder.tokenizer.decode(prompt.prompt)] = sample.rewards[i], sample.steps[i], led
    assert found == {
        seen(0)[0]: (0 + 2 / 2, 2, None),  # terminated at step 1
        seen(2)[0]: (2, 1, None),
        seen(4)[0]: (4 + 6 / 2, 2, seen(80)[0]),  # the rollout ends
        seen(6)[0]: (6, 1, seen(80)[0]),
        seen(1)[0]: (1 + 3 / 2 + 5 / 4, 3, seen(90)[0]),  # a time limit cuts at step 2
        seen(3)[0]: (3 + 5 / 2, 2, seen(90)[0]),
        seen(5)[0]: (5, 1, seen(90)[0]),
        seen(7)[0]: (7, 1, seen(81)[0]),
    }


@pytest.mark.parametrize("n_step", [1, 2, 5, 50])
def test_rewards_of_several_steps_are_stable_baselines3_s(n_step):
    generator = np.random.default_rng(n_step)
    rewards, ended = generator.normal(size=(20, 1)), generator.random((20, 1)) < 0.15
    theirs = NStepReplayBuffer(20, Box(0, 1, (1,)), Discrete(2), n_steps=n_step, gamma=0.9)
    for reward, end in zip(rewards, ended, strict=True):
        theirs.add(np.zeros((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), reward, end, [{}])
    sums, steps = n_step_rewards(rewards, ended, n_step=n_step, gamma=0.9)
    sample = theirs._get_samples(np.arange(20 - 1))  # the last one is what their buffer takes for its seam
    np.testing.assert_allclose(sums[:-1, 0], sample.rewards[:, 0].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(0.9 ** steps[:-1, 0], sample.discounts[:, 0].numpy(), rtol=1e-5)


def test_the_oldest_transitions_are_forgotten_with_their_states(policy, encoder):
    buffer = ReplayBuffer(8, policy, encoder)
    buffer.add(rollout_from())
    assert len(buffer) == 8
    buffer.add(rollout_from(20))
    assert (len(buffer), buffer.num_seen) == (8, 16)
    known = {text for (text, _), _ in buffer._entries.values()}
    assert known == {seen(number)[0] for number in (*range(20, 28), 80, 81, 90)}


def test_a_state_that_was_met_twice_is_kept_once(policy, encoder):
    buffer = ReplayBuffer(100, policy, encoder)
    for _ in range(5):
        buffer.add(rollout_from())
    assert (len(buffer), len(buffer._entries)) == (40, 11)


def test_a_replay_is_the_same_after_a_checkpoint_also_when_it_has_gone_round(policy, encoder):
    buffer = ReplayBuffer(11, policy, encoder)
    for first in (0, 10, 20):
        buffer.add(rollout_from(first))
    state = buffer.state()
    again = ReplayBuffer(11, policy, encoder)
    again.restore(state.tensors, state.values)
    for each in (buffer, again):
        each.add(rollout_from(30))
    [ours, theirs] = [each.sample(500, minibatch_generator(3)) for each in (buffer, again)]
    assert ours.prompts == theirs.prompts
    assert ours.next_prompts == theirs.next_prompts
    assert np.array_equal(ours.rewards, theirs.rewards)
    assert again.state().values["states"] == buffer.state().values["states"]


def test_a_replay_with_a_column_that_is_kept_no_more_is_read(policy, encoder):
    buffer = ReplayBuffer(11, policy, encoder)
    buffer.add(rollout_from())
    state = buffer.state()
    assert "replay/versions" not in state.tensors
    again = ReplayBuffer(11, policy, encoder)
    again.restore({**state.tensors, "replay/versions": torch.full((8,), 7)}, state.values)
    [ours, theirs] = [each.sample(100, minibatch_generator(3)) for each in (buffer, again)]
    assert (ours.prompts, ours.next_prompts) == (theirs.prompts, theirs.next_prompts)
    assert again.state().tensors.keys() == state.tensors.keys()


# --- DQN's targets


def make_dqn(policy, encoder, **more):
    settings = {"learning_starts": 0, "gradient_steps": 1, "minibatch_size": 32, "gamma": 0.9}
    return DQN(policy, encoder, DQNHyperparameters(**{**settings, **more}), minibatch_generator(1))


@pytest.mark.parametrize("n_step", [1, 2])
@pytest.mark.parametrize("double_q", [False, True])
def test_targets_are_the_rewards_and_the_next_state_s_best_legal_action(policy, encoder, double_q, n_step):
    dqn = make_dqn(policy, encoder, double_q=double_q, n_step=n_step)
    dqn.replay.add(rollout_from())
    other = deepcopy(policy)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sample = dqn.replay.sample(64, minibatch_generator(2))
    targets = dqn._targets(sample, other).numpy()
    following = dict(zip(sample.goes_on.tolist(), sample.next_prompts, strict=True))
    assert set(sample.steps) == set(range(1, n_step + 1))
    for i, reward in enumerate(sample.rewards):
        expected = reward
        if i in following:
            with torch.no_grad():
                told, chooser = (score(each, [following[i]]).scores[0] for each in (other, policy))
            expected += 0.9 ** sample.steps[i] * (told[chooser.argmax()] if double_q else told.max()).item()
        assert targets[i] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_target_network_follows_every_so_many_gradient_steps(policy, encoder):
    dqn = make_dqn(policy, encoder, gradient_steps=3, target_network_frequency=4)
    before = {name: tensor.clone() for name, tensor in state_of(policy).items()}
    dqn.update(rollout_from(), learning_rate=1e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(dqn.target).items())
    dqn.update(rollout_from(), learning_rate=1e-2)  # gradient steps 4 to 6
    moved = {name: tensor.clone() for name, tensor in state_of(dqn.target).items()}
    assert any(not torch.equal(tensor, before[name]) for name, tensor in moved.items())
    assert any(not torch.equal(tensor, moved[name]) for name, tensor in state_of(policy).items())


def test_tau_moves_the_target_network_by_a_share(policy, encoder):
    dqn = make_dqn(policy, encoder, gradient_steps=1, target_network_frequency=1, tau=0.25)
    before = {name: tensor.clone() for name, tensor in state_of(policy).items()}
    dqn.update(rollout_from(), learning_rate=1e-2)
    for name, tensor in state_of(dqn.target).items():
        torch.testing.assert_close(tensor, before[name].lerp(state_of(policy)[name], 0.25))


def test_nothing_is_learned_before_enough_was_seen(policy, encoder):
    dqn = make_dqn(policy, encoder, learning_starts=9)
    before = {name: tensor.clone() for name, tensor in state_of(policy).items()}
    metrics = dqn.update(rollout_from(), learning_rate=1e-2)
    assert (metrics.num_minibatches, metrics.num_transitions) == (0, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(policy).items())
    assert dqn.update(rollout_from(), learning_rate=1e-2).num_minibatches == 1


# --- SARSA's


def test_sarsa_learns_the_lambda_return_of_the_actions_taken(policy, encoder, monkeypatch):
    """By the recursion of Sutton and Barto, eq. 12.20's forward view, from the end backwards."""
    gamma, decay = 0.9, 0.7
    rollout = rollout_from()
    generator = np.random.default_rng(4)
    rollout.values[:] = generator.normal(size=(S, N))
    rollout.bootstrap_values[2, 1], rollout.last_values[:] = 5.0, [1.0, 2.0]
    learned = spied(monkeypatch)
    hyper = SARSAHyperparameters(gamma=gamma, sarsa_lambda=decay, update_epochs=1, minibatch_size=S * N)
    algorithm = SARSA(policy, encoder, hyper, InOrder())
    algorithm.update(rollout, learning_rate=1e-3)
    expected = np.zeros((S, N))
    for n in range(N):
        following, value_after = rollout.last_values[n], rollout.last_values[n]
        for s in reversed(range(S)):
            if rollout.terminated[s, n]:
                expected[s, n] = rollout.rewards[s, n]
            elif rollout.truncated[s, n]:
                expected[s, n] = rollout.rewards[s, n] + gamma * rollout.bootstrap_values[s, n]
            else:
                mixed = (1 - decay) * value_after + decay * following
                expected[s, n] = rollout.rewards[s, n] + gamma * mixed
            following, value_after = expected[s, n], rollout.values[s, n]
    np.testing.assert_allclose(learned[0][1].numpy().reshape(S, N), expected, rtol=1e-5)


class InOrder:
    """A generator that shuffles nothing."""

    def permutation(self, count):
        return np.arange(count)


def test_sarsa_draws_from_all_it_remembers_as_often_as_it_would_from_one_rollout(policy, encoder, monkeypatch):
    learned = spied(monkeypatch)
    hyper = SARSAHyperparameters(update_epochs=3, minibatch_size=6, replay_rollouts=2)
    algorithm = SARSA(policy, encoder, hyper, minibatch_generator(1))
    told = [algorithm.update(rollout_from(100 * k), learning_rate=1e-3) for k in range(3)]
    assert [metrics.num_transitions for metrics in told] == [S * N, 2 * S * N, 2 * S * N]
    assert [metrics.num_minibatches for metrics in told] == [4, 4, 4]
    assert [len(targets) for _, targets in learned] == [6] * 12
    assert len({target for _, targets in learned[8:] for target in targets.tolist()}) > S * N


def test_sarsa_bootstraps_from_what_its_weights_say_now(policy, encoder, monkeypatch):
    monkeypatch.setattr(reading, "READ_AT_ONCE", 3)
    older, newest = rollout_from(), rollout_from(80)
    newest.values[:] = 1.0
    older.prompts[5] = older.prompts[1]  # met twice, and the same done
    hyper = SARSAHyperparameters(gamma=0.9, sarsa_lambda=0.0, update_epochs=2, minibatch_size=100)
    algorithm = SARSA(policy, encoder, hyper, InOrder())
    algorithm.update(older, learning_rate=0.0)
    learned = spied(monkeypatch)
    algorithm.update(newest, learning_rate=0.0)
    [(_, targets)] = learned
    now = [
        q_of(policy, encoder, state)[i // N % 2]
        for i, state in enumerate(zip(older.prompts, older.action_phrases, strict=True))
    ]
    for i in range((S - 1) * N):
        if not older.terminated.flat[i] and not older.truncated.flat[i]:
            assert targets[i].item() == pytest.approx(older.rewards.flat[i] + 0.9 * now[i + N], abs=1e-4)
    for n in range(N):  # the newest begins where it ended
        assert targets[(S - 1) * N + n].item() == pytest.approx(older.rewards[-1, n] + 0.9 * 1.0)


def spied(monkeypatch):
    """Returns a list to which every minibatch's actions and targets are added."""
    learned = []

    def spy(policy, prompts, actions, targets):
        learned.append((actions.clone(), targets.clone()))
        return real(policy, prompts, actions, targets)

    real = sarsa.q_loss
    monkeypatch.setattr(sarsa, "q_loss", spy)
    return learned


def test_stale_transitions_are_not_learned_from(policy, encoder):
    rollout = rollout_from()
    rollout.stale[:] = True
    before = {name: tensor.clone() for name, tensor in state_of(policy).items()}
    metrics = SARSA(policy, encoder, SARSAHyperparameters(), minibatch_generator(1)).update(rollout, learning_rate=1e-2)
    assert metrics.num_minibatches == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(policy).items())


# --- exploration


def test_epsilon_falls_linearly_and_then_stays():
    hyper = DQNHyperparameters(start_epsilon=1.0, end_epsilon=0.2, exploration_fraction=0.5)
    levels = [exploration(explore(hyper, progress)) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert levels == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    assert explore(hyper, 0.0) == Behaviour("epsilon", epsilon=1.0)
    assert exploration(explore(DQNHyperparameters(exploration_fraction=0.0), 0.0)) == pytest.approx(0.04)


def test_softmax_exploration_sends_a_temperature():
    hyper = SARSAHyperparameters(exploration="softmax", start_temperature=4.0, end_temperature=1.0)
    assert explore(hyper, 0.1) == Behaviour("sample", temperature=pytest.approx(2.5))


# --- the policy's action values


@pytest.mark.parametrize("only_log_probs", [False, True])
def test_action_values_are_the_value_and_the_differences_of_scores(policy, encoder, only_log_probs):
    rollout = rollout_from()
    prompts = scored_prompts(rollout, policy, encoder)
    with torch.no_grad():
        output = score(policy, prompts, only_log_probs=only_log_probs)
        policy.q_scale.fill_(0.0)
        plain = score(policy, prompts)
    for i, (_, phrases) in enumerate(zip(rollout.prompts, rollout.action_phrases, strict=True)):
        legal = plain.scores[i, : len(phrases)]
        expected = plain.values[i] + 2.0 * (legal - legal.mean())
        torch.testing.assert_close(output.scores[i, : len(phrases)], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.values[i], expected.max(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.log_probs[i, : len(phrases)], expected.log_softmax(0), atol=1e-4, rtol=1e-4)
        assert (output.scores[i, len(phrases) :] == -torch.inf).all()


def test_a_large_value_does_not_round_the_probabilities(policy, encoder):
    state = seen(1)
    small = q_of(policy, encoder, state)
    [prompt] = encoder.scored([state[0]], [policy.candidates(encoder, state[1])])
    with torch.no_grad():
        before = score(policy, [prompt]).log_probs
        policy.value_head.bias.fill_(1e7)
        after = score(policy, [prompt]).log_probs
    assert torch.equal(before, after)
    assert np.isfinite(small).all()
