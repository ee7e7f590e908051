"""Rollouts, and what happens when other weights than the learner's answer."""

import numpy as np
import pytest

from hintwise.errors import VersionConflict
from hintwise.policy import Policy
from hintwise.weights import dump
from worker.buffers import SAMPLE
from worker.envs import TextEnvs
from worker.errors import ServiceMismatch
from worker.rollout import collect_rollout
from worker.seeds import action_seed
from worker.served_policy import MAX_PUSH_ATTEMPTS, ServedPolicy

NUM_ENVS = 3


@pytest.fixture
def served(service):
    served = ServedPolicy(service)
    served.fetch()
    return served


@pytest.fixture
def envs():
    return TextEnvs("CartPole-v1", num_envs=NUM_ENVS, run_seed=1)


@pytest.fixture
def others(service):
    """Weights that are not ours."""
    policy = Policy(service.language_model)
    policy.value_head.bias.data.fill_(0.5)
    return dump(policy)


def collect(served, envs, num_steps=4, **more):
    return collect_rollout(served, envs, **{"num_steps": num_steps, "first_step": 0, "run_seed": 1, **more})


def test_one_request_carries_every_environment(service, served, envs):
    collect(served, envs)
    assert service.batch_sizes == [NUM_ENVS] * 5  # four steps, and the values after the last


def test_action_seeds_derive_from_the_run_and_its_step(service, served, envs):
    collect(served, envs, first_step=300)
    assert service.seeds[:4] == [action_seed(1, 300 + NUM_ENVS * s) for s in range(4)]


def test_a_rollout_holds_what_the_service_said(service, served, envs):
    states = envs.states
    rollout = collect(served, envs)
    answer = service.act(
        [state.text for state in states], list(states[0].actions), task=envs.task, seed=action_seed(1, 0)
    )
    assert rollout.actions[0].tolist() == [result.action for result in answer.results]
    assert rollout.log_probs[0].tolist() == [result.log_prob for result in answer.results]
    assert rollout.prompts[0] == f"task: {envs.task}\nstate: {states[0].text}\naction:"
    assert rollout.action_phrases[0] == ("push left", "push right")
    assert (rollout.policy_versions == 1).all()
    assert rollout.num_stale == 0


def test_a_time_limit_asks_for_the_final_value_in_one_more_request(service, served, envs):
    service.policy.value_head.bias.data.fill_(0.25)
    for env in envs._envs[:2]:
        env._env._max_episode_steps = 2  # the TimeLimit wrapper is outermost
    rollout = collect(served, envs, num_steps=2)
    assert rollout.truncated.tolist() == [[False] * 3, [True, True, False]]
    assert service.batch_sizes == [3, 3, 2, 3]
    np.testing.assert_allclose(rollout.bootstrap_values, [[0, 0, 0], [0.25, 0.25, 0]])
    np.testing.assert_allclose(rollout.last_values, [0.25] * 3)
    assert [(episode.step, episode.length) for episode in rollout.episodes] == [(6, 2), (6, 2)]


def test_a_service_that_forgot_our_weights_gets_them_again(service, served, envs, others):
    service.before_act[2] = lambda: service.force_weights(others)
    rollout = collect(served, envs)
    assert rollout.num_stale == 0
    assert rollout.policy_versions[:, 0].tolist() == [1, 1, 3, 3]
    assert service.served[3] == served.data


def test_the_answer_of_other_weights_is_not_acted_on(service, served, envs, others, make_service):
    service.before_act[2] = lambda: service.force_weights(others)
    rollout = collect(served, envs)
    undisturbed = ServedPolicy(make_service())
    undisturbed.fetch()
    same = collect(undisturbed, TextEnvs("CartPole-v1", num_envs=NUM_ENVS, run_seed=1))
    assert (rollout.actions == same.actions).all()
    assert (rollout.values == same.values).all()


def test_transitions_chosen_by_others_twice_are_kept_and_marked_stale(service, served, envs, others):
    service.before_act[2] = service.before_act[3] = lambda: service.force_weights(others)
    rollout = collect(served, envs)
    assert rollout.stale.tolist() == [[False] * 3, [False] * 3, [True] * 3, [False] * 3]
    assert rollout.policy_versions[2].tolist() == [4] * 3


def test_stale_values_after_the_rollout_mark_its_last_row(service, served, envs, others):
    service.before_act[4] = service.before_act[5] = lambda: service.force_weights(others)
    assert collect(served, envs).stale[:, 0].tolist() == [False, False, False, True]


def test_a_stale_final_value_marks_its_transition(service, served, envs, others):
    envs._envs[1]._env._max_episode_steps = 2
    service.before_act[2] = service.before_act[3] = lambda: service.force_weights(others)
    assert collect(served, envs, num_steps=2).stale.tolist() == [[False] * 3, [False, True, False]]


def test_the_same_weights_under_another_number_are_adopted_not_pushed(service, served, envs):
    data = served.data
    service.before_act[1] = lambda: service.force_weights(data)
    rollout = collect(served, envs)
    assert service.calls["put_weights"] == 0
    assert rollout.policy_versions[:, 0].tolist() == [1, 2, 2, 2]
    assert rollout.num_stale == 0


def test_a_push_adopts_the_number_it_is_given(service, served, others):
    service.served[41] = service.served[1]
    served.hold(others)
    served.push()
    assert served.policy_version == 42


def test_a_push_whose_answer_was_lost_is_not_made_twice(service, served, others):
    served.hold(others)
    service.force_weights(others)  # it arrived; we never heard
    served.push()
    assert (served.policy_version, service.calls["put_weights"]) == (2, 1)


def test_a_push_gives_up_when_somebody_else_keeps_winning(service, served, others, monkeypatch):
    def conflict(data, *, if_match):
        service.calls["put_weights"] += 1
        raise VersionConflict("moved")

    monkeypatch.setattr(service, "put_weights", conflict)
    served.hold(others)
    with pytest.raises(VersionConflict, match="somebody else is training"):
        served.push()
    assert service.calls["put_weights"] == 1 + MAX_PUSH_ATTEMPTS


@pytest.mark.parametrize("what", ["architecture", "tokenizer_sha256"])
def test_another_model_is_refused(served, service, what):
    ours = {
        "architecture": service.language_model.architecture,
        "tokenizer_sha256": service.language_model.tokenizer_sha256,
    }
    served.check_fits(**ours)
    with pytest.raises(ServiceMismatch, match=what.removesuffix("_sha256")):
        served.check_fits(**{**ours, what: "other"})


def test_another_prompt_template_is_refused(service, monkeypatch):
    info = service.info().model_copy(update={"prompt_template_version": 99})
    monkeypatch.setattr(service, "info", lambda: info)
    with pytest.raises(ServiceMismatch, match="template 99"):
        ServedPolicy(service)


def test_actions_that_differ_by_state_are_sent_one_list_each(service, served):
    from worker.text_env import State

    asked = served.ask(
        [State("1", ("push left",)), State("2", ("push left", "push right"))], SAMPLE, task=None, seed=[1, 2]
    )
    assert [len(result.log_probs) for result in asked.results] == [1, 2]


@pytest.mark.parametrize(
    ("head_actions", "wanted", "theirs"), [(None, "head", "phrase"), (["push left", "push right"], "phrase", "head")]
)
def test_a_service_with_another_readout_than_was_asked_for_is_refused(make_service, head_actions, wanted, theirs):
    served = ServedPolicy(make_service(head_actions))
    served.check_readout(None)
    served.check_readout(theirs)
    with pytest.raises(ServiceMismatch, match=f"has readout {theirs}, this worker was asked for {wanted}"):
        served.check_readout(wanted)


def test_a_head_without_one_of_the_environments_actions_is_refused_with_both_lists(make_service):
    served = ServedPolicy(make_service(["push left", "wait", "push right"]))
    served.check_head_answers(("push right", "push left"))
    with pytest.raises(ServiceMismatch, match=r"'push right'\], but the environment's actions are \['jump'\]"):
        served.check_head_answers(("jump",))
