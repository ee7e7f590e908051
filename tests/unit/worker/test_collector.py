"""Rollouts that are collected while an update learns: --max-staleness 1."""

import math
import threading

import numpy as np
import pytest
import torch

from hintwise.errors import ServiceUnreachable
from hintwise.policy import Policy
from hintwise.scoring import score
from worker.algorithms.a2c import A2C
from worker.algorithms.algorithm import importance_weights, scored_prompts
from worker.algorithms.hyperparameters import A2CHyperparameters, PPOHyperparameters
from worker.algorithms.ppo import PPO
from worker.buffers import Behaviour, Rollout
from worker.checkpoint import load_checkpoint, save_checkpoint
from worker.collector import Collector, Turn
from worker.config import TrainConfig
from worker.envs import TextEnvs
from worker.errors import CheckpointUnusable, CollectingCancelled
from worker.learner import Learner
from worker.rollout_state import rollout_of, rollout_state
from worker.seeds import minibatch_generator
from worker.served_policy import ServedPolicy

WAIT_S = 60
NUM_ENVS, NUM_STEPS = 2, 8


@pytest.fixture
def config(tmp_path, model_dir):
    return TrainConfig(
        env_id="CartPole-v1",
        total_steps=5 * NUM_ENVS * NUM_STEPS,
        num_envs=NUM_ENVS,
        num_steps=NUM_STEPS,
        minibatch_size=8,
        update_epochs=2,
        env_workers=0,
        max_staleness=1,
        model=str(model_dir),
        run_dir=tmp_path / "run",
    )


@pytest.fixture
def learner(config, service):
    learner = Learner(config, ServedPolicy(service))
    learner.begin()
    yield learner
    learner.close()


def spied(learner, while_learning=lambda rollout: None):
    """Notes every rollout that is learned from, and does something meanwhile."""
    seen, real = [], learner.algorithm.update

    def update(rollout, *, learning_rate):
        seen.append(rollout)
        while_learning(rollout)
        return real(rollout, learning_rate=learning_rate)

    learner.algorithm.update = update
    return seen


# --- which weights act


def test_the_weights_that_act_are_one_update_behind(learner):
    rollouts = spied(learner)
    first = learner.served.policy_version
    reports = [learner.run_update() for _ in range(5)]
    acted = [rollout.policy_versions for rollout in rollouts]
    assert all((versions == versions[0, 0]).all() for versions in acted)  # never two within a rollout
    assert [versions[0, 0] - first for versions in acted] == [0, 0, 1, 2, 3]
    assert [rollout.staleness for rollout in rollouts] == [0, 1, 1, 1, 1]
    assert [report.staleness for report in reports] == [0, 1, 1, 1, 1]
    assert not any(rollout.stale.any() for rollout in rollouts)
    assert (learner.step, learner.update) == (80, 5)


def test_nothing_is_collected_behind_the_last_update(learner):
    for _ in range(5):
        learner.run_update()
    assert learner.collector.pending is None
    assert learner.served.client.calls["act"] == 5 * (NUM_STEPS + 1)


def test_the_next_rollout_is_collected_while_an_update_learns(learner, service):
    asked = threading.Event()

    def wait_for_a_question(rollout):
        assert asked.wait(WAIT_S), "nobody asked the service while the update was learning"

    spied(learner, wait_for_a_question)
    service.before_act[NUM_STEPS + 1] = asked.set  # the first question of the second rollout
    learner.run_update()
    assert learner.collector.pending is not None


def test_by_default_nobody_asks_while_an_update_learns(config, service):
    learner = Learner(config.model_copy(update={"max_staleness": 0}), ServedPolicy(service))
    learner.begin()
    calls = []
    rollouts = spied(learner, lambda rollout: calls.append(service.calls["act"]))
    learner.run_update()
    learner.run_update()
    assert calls == [NUM_STEPS + 1, 2 * (NUM_STEPS + 1)]
    assert [rollout.staleness for rollout in rollouts] == [0, 0]


# --- what can go wrong


def test_what_was_learned_is_kept_where_the_next_rollout_is_lost(config, learner, service, make_service, tmp_path):
    def vanish():
        raise ServiceUnreachable("nobody answers")

    learner.run_update()
    service.before_act[service.calls["act"] + 3] = vanish
    with pytest.raises(ServiceUnreachable):
        learner.run_update()
    saved = load_checkpoint(save_checkpoint(tmp_path, learner.checkpoint()))
    assert (saved.state.update, saved.state.step, saved.pending) == (2, 32, None)
    assert saved.policy == learner.served.data
    again = Learner(config, ServedPolicy(make_service()))
    again.restore(saved)
    assert [again.run_update().update for _ in range(3)] == [3, 4, 5]
    again.close()


def test_closing_ends_a_rollout_under_way(service):
    served = ServedPolicy(service)
    served.fetch()
    envs = TextEnvs("CartPole-v1", num_envs=NUM_ENVS, run_seed=1)
    collector = Collector(served, envs, num_steps=10**6, run_seed=1, prepare=lambda prompts: None)
    under_way = threading.Event()
    service.before_act[2] = under_way.set
    collector.start(Turn(0, Behaviour(), None, staleness=1))
    assert under_way.wait(WAIT_S)
    collector.close()
    with pytest.raises(CollectingCancelled):
        collector.join()


# --- checkpoints


def a_rollout():
    rollout = Rollout.empty(2, 1, behaviour=Behaviour("epsilon", epsilon=0.25))
    rollout.prompts, rollout.action_phrases = ["a", "b"], [("left", "right"), ("left",)]
    rollout.rewards[:] = [[0.5], [-1.0]]
    rollout.policy_versions[:] = 7
    rollout.stale[1] = True
    rollout.final_states = {1: ("c", ("left", "right"))}
    rollout.last_states = [("d", ("right",))]
    rollout.staleness = 1
    return rollout


def test_a_rollout_from_before_there_was_a_share_of_hints_is_read():
    tensors, values = rollout_state(a_rollout())
    del values["hint_share"]
    assert rollout_of(tensors, values).hint_share == 0.0


def test_a_rollout_is_the_same_after_a_checkpoint(learner, tmp_path):
    learner.run_update()
    checkpoint = learner.checkpoint()
    again = load_checkpoint(save_checkpoint(tmp_path, checkpoint)).pending
    for ours, theirs in ((checkpoint.pending, again), (a_rollout(), rollout_of(*rollout_state(a_rollout())))):
        for name, value in vars(ours).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(getattr(theirs, name), value)
                assert getattr(theirs, name).dtype == value.dtype
            else:
                assert getattr(theirs, name) == value


@pytest.mark.parametrize("damage", ["{", "{}", '{"prompts": 3}'])
def test_a_damaged_rollout_is_one_clear_error(learner, tmp_path, damage):
    learner.run_update()
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    (saved / "rollout.json").write_text(damage)
    with pytest.raises(CheckpointUnusable, match="cannot be read"):
        load_checkpoint(saved)


def test_only_the_last_two_checkpoints_keep_their_rollouts(learner, tmp_path):
    saved = []
    for _ in range(3):
        learner.run_update()
        saved.append(save_checkpoint(tmp_path, learner.checkpoint()))
    assert [(directory / "rollout.safetensors").exists() for directory in saved] == [False, True, True]


# --- importance weights


def test_a_weight_is_the_ratio_up_to_two():
    now, then = torch.log(torch.tensor([0.5, 0.1, 0.9])), torch.log(torch.tensor([0.4, 0.2, 0.1]))
    torch.testing.assert_close(importance_weights(now, then, 1), torch.tensor([1.25, 0.5, 2.0]))
    assert torch.equal(importance_weights(now, then, 0), torch.ones(3))


def played(policy, encoder, staleness, shift=0.0):
    """One-step episodes whose behaviour's log-probabilities are off by `shift` from what the policy says now."""
    generator = np.random.default_rng(0)
    rollout = Rollout.empty(8, 2)
    rollout.prompts = [f"state: {number}\naction:" for number in generator.integers(5, size=16)]
    rollout.action_phrases = [("push left", "push right")] * 16
    with torch.no_grad():
        output = score(policy, scored_prompts(rollout, policy, encoder))
    rollout.actions[:] = generator.integers(2, size=(8, 2))
    log_probs = output.log_probs.gather(1, torch.from_numpy(rollout.actions.reshape(-1, 1))).numpy()
    rollout.log_probs[:] = log_probs.reshape(8, 2) - shift
    rollout.rewards[:] = generator.normal(size=(8, 2))
    rollout.terminated[:] = True
    rollout.staleness = staleness
    return rollout


def build(algorithm, policy, encoder):
    if algorithm is PPO:
        hyper = PPOHyperparameters(minibatch_size=16, update_epochs=1, vf_coef=0.0, max_grad_norm=1e9)
        return PPO(policy, encoder, hyper, minibatch_generator(1))
    return A2C(policy, encoder, A2CHyperparameters(vf_coef=0.0, max_grad_norm=1e9), minibatch_generator(1))


@pytest.mark.parametrize(("shift", "weight"), [(0.0, 1.0), (math.log(1.5), 1.5), (math.log(0.25), 0.25), (5.0, 2.0)])
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_the_gradient_of_a_stale_rollout_is_weighted(language_model, encoder, algorithm, shift, weight):
    norms = []
    for staleness in (0, 1):
        policy = Policy(language_model)
        learns = build(algorithm, policy, encoder)
        rollout = played(policy, encoder, staleness, shift if staleness else 0.0)
        start = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        metrics = learns.update(rollout, learning_rate=1e-4)
        policy.load_state_dict(start)  # the model is shared
        norms.append(metrics.grad_norm)
    assert metrics.importance_weight == pytest.approx(weight, rel=1e-4)
    assert norms[1] == pytest.approx(weight * norms[0], rel=1e-3)


def test_the_clip_range_of_a_stale_rollout_is_around_the_weights_that_learn(language_model, encoder):
    policy = Policy(language_model)
    metrics = build(PPO, policy, encoder).update(played(policy, encoder, 1, shift=3.0), learning_rate=1e-4)
    assert metrics.first_ratio_error < 1e-5
    assert metrics.clip_fraction == 0
