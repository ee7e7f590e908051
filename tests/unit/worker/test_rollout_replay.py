"""SARSA's memory: rollouts end to end, and the returns that reach across them."""

import dataclasses

import numpy as np
import pytest

from worker.algorithms.rollout_replay import RolloutReplay
from worker.buffers import Rollout
from worker.errors import CheckpointUnusable

S, N, ACTIONS = 3, 2, ("left", "right")
GAMMA, DECAY = 0.9, 0.7


def text(step, n):
    return f"step {step} of environment {n}"


def rollout_at(first, *, last_values=(0.0, 0.0), values=0.0):
    """Three steps of two environments from step `first` of each."""
    rollout = Rollout.empty(S, N)
    rollout.prompts = [text(first + s, n) for s in range(S) for n in range(N)]
    rollout.action_phrases = [ACTIONS] * (S * N)
    rollout.actions[:] = [[(first + s) % 2, 1] for s in range(S)]
    rollout.rewards[:] = 1.0 + first + np.arange(S * N).reshape(S, N)
    rollout.values[:] = values
    rollout.last_values[:] = last_values
    rollout.last_states = [(text(first + S, n), ACTIONS) for n in range(N)]
    return rollout


def remembered(*rollouts, capacity=16):
    replay = RolloutReplay(capacity, lambda rollout: list(rollout.prompts))
    for rollout in rollouts:
        replay.add(rollout)
    return replay


def worth_now(prompts, actions):
    return np.array([10.0 * int(prompt.split()[1]) + action for prompt, action in zip(prompts, actions, strict=True)])


def learned(replay):
    return replay.transitions(worth_now, gamma=GAMMA, decay=DECAY)


def by_recursion(rewards, values, last_value, ends=()):
    """Returns the lambda-returns of one environment, from the end backwards; `ends` holds terminal steps."""
    following, value_after, returns = last_value, last_value, []
    for s in reversed(range(len(rewards))):
        ahead = 0.0 if s in ends else (1 - DECAY) * value_after + DECAY * following
        following, value_after = rewards[s] + GAMMA * ahead, values[s]
        returns.append(following)
    return returns[::-1]


def test_returns_reach_from_one_rollout_into_the_next():
    older, newest = (
        rollout_at(0, last_values=(99.0, 99.0), values=77.0),
        rollout_at(S, last_values=(5.0, 6.0), values=4.0),
    )
    older.terminated[1, 0] = True
    known = learned(remembered(older, newest))
    returns = known.returns.reshape(2 * S, N)
    for n in range(N):
        now = worth_now([text(s, n) for s in range(S)], older.actions[:, n])  # not what was answered then: 77
        rewards = [*older.rewards[:, n], *newest.rewards[:, n]]
        ends = (1,) if n == 0 else ()
        expected = by_recursion(rewards, [*now, *newest.values[:, n]], newest.last_values[n], ends)
        np.testing.assert_allclose(returns[:, n], expected)
    assert known.prompts == [*older.prompts, *newest.prompts]
    assert known.actions.tolist() == [*older.actions.reshape(-1), *newest.actions.reshape(-1)]
    assert known.num_new == S * N


def other_text(rollout):
    rollout.prompts[1] = "somewhere else"


def other_actions(rollout):
    rollout.action_phrases[1] = ("left",)


@pytest.mark.parametrize("change", [other_text, other_actions])
def test_an_environment_that_went_on_elsewhere_is_cut_there(change):
    older, newest = rollout_at(0, last_values=(7.0, 8.0)), rollout_at(S, values=4.0)
    change(newest)
    returns = learned(remembered(older, newest)).returns.reshape(2 * S, N)
    now = worth_now([text(s, 1) for s in range(S)], older.actions[:, 1])
    np.testing.assert_allclose(returns[:S, 1], by_recursion(older.rewards[:, 1], now, 8.0))
    assert returns[S - 1, 0] != pytest.approx(older.rewards[S - 1, 0] + GAMMA * 7.0)  # the other goes on


def test_behind_a_time_limit_stands_what_was_answered_then():
    older, newest = rollout_at(0), rollout_at(S, values=4.0)
    older.truncated[S - 1, 0] = True
    older.bootstrap_values[S - 1, 0] = 50.0
    older.last_states[0] = newest.prompts[0], ACTIONS  # of the next episode
    returns = learned(remembered(older, newest)).returns.reshape(2 * S, N)
    assert returns[S - 1, 0] == pytest.approx(older.rewards[S - 1, 0] + GAMMA * 50.0)


def test_stale_transitions_take_part_in_returns_alone():
    older, newest = rollout_at(0), rollout_at(S)
    every = learned(remembered(older, newest)).returns
    older.stale[1, 1] = older.stale[2, 0] = True
    known = learned(remembered(older, newest))
    left = [i for i in range(2 * S * N) if i not in (N + 1, 2 * N)]
    np.testing.assert_array_equal(known.returns, every[left])
    assert known.prompts == [(older.prompts + newest.prompts)[i] for i in left]
    assert known.num_new == S * N


@pytest.mark.parametrize(
    "by_others", [{"staleness": 1}, {"stale": np.array([[False, False], [True, False], [False, False]])}]
)
def test_what_other_weights_answered_is_computed_anew_in_the_newest_rollout_too(by_others):
    newest = dataclasses.replace(rollout_at(0, values=77.0), **by_others)
    every = worth_now(newest.prompts, newest.actions.reshape(-1)).reshape(S, N)
    returns = np.array([by_recursion(newest.rewards[:, n], every[:, n], 0.0) for n in range(N)]).T.reshape(-1)
    known = learned(remembered(newest))
    np.testing.assert_allclose(known.returns, returns[~newest.stale.reshape(-1)])
    assert known.num_new == int((~newest.stale).sum())


def test_the_oldest_goes_first():
    replay = remembered(rollout_at(0), rollout_at(S), rollout_at(2 * S), capacity=2)
    assert learned(replay).prompts == [*rollout_at(S).prompts, *rollout_at(2 * S).prompts]


def test_what_is_remembered_is_put_away_and_taken_back():
    many = [rollout_at(S * k, last_values=(k, 2 * k)) for k in range(12)]
    replay, again = remembered(*many), remembered(rollout_at(100))
    state = replay.state()
    again.restore(state.tensors, state.values)
    for ours, theirs in zip(learned(replay), learned(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_without_what_was_remembered_is_refused():
    state = remembered(rollout_at(0), rollout_at(S)).state()
    with pytest.raises(CheckpointUnusable, match=r"no rollouts to learn from: .* start a new run"):
        remembered().restore({}, {})
    del state.tensors["rollout-1/rewards"]
    with pytest.raises(CheckpointUnusable, match=r"damaged: .*rewards"):
        remembered().restore(state.tensors, state.values)


def test_texts_that_no_return_needs_are_not_kept():
    rollout = rollout_at(0)
    rollout.hinted_prompts = rollout.bare_prompts = list(rollout.prompts)
    [values] = remembered(rollout).state().values["rollouts"]
    assert values["hinted_prompts"] == values["bare_prompts"] == []
