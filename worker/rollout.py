"""Collects transitions: one request per vector step carries all environments.

Every transition is stored with the version that chose its action. Before the environments
step, `ServedPolicy.ask` has seen to it that this is the learner's own version; where it could
not, the transition is kept as what really happened but marked stale.

While the service thinks about one step, this side writes down the one before and prepares what
learning will need. One request carries the whole step: docs/decisions/0012 says why not two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hintwise.prompts import action_prompt
from worker.algorithms.algorithm import VALUE, Behaviour, Worth
from worker.buffers import Episode, Floats, Rollout, SeenState
from worker.envs import VectorEnvs, VectorStep
from worker.seeds import action_seed, bootstrap_seed
from worker.served_policy import Asked, ServedPolicy
from worker.text_env import State

SAMPLE, GREEDY = Behaviour(), Behaviour("greedy")


def collect_rollout(
    policy: ServedPolicy,
    envs: VectorEnvs,
    *,
    num_steps: int,
    first_step: int,
    run_seed: int,
    behaviour: Behaviour = SAMPLE,
    worth: Worth | None = VALUE,
    before_step: Callable[[], None] = lambda: None,
    prepare: Callable[[list[str]], object] = lambda prompts: None,
    at_end: Callable[[], object] = lambda: None,
) -> Rollout:
    """Returns `num_steps` steps of every environment.

    Args:
        policy: Chooses the actions.
        envs: Are stepped, and stay where the rollout ends.
        num_steps: Vector steps, S.
        first_step: Environment steps of the run so far; action seeds derive from it.
        run_seed: Seed of the run.
        behaviour: How actions are chosen.
        worth: What `values` hold, and `bootstrap_values` and `last_values` for the states that follow; None: zeros, and
            nobody is asked.
        before_step: Called before each vector step; whatever it raises ends the rollout.
        prepare: Given the prompts of each step while they are being answered.
        at_end: Called once the environments stand still, while the last values are asked for.
    """
    rollout = Rollout.empty(num_steps, envs.num_envs)
    for s in range(num_steps):
        before_step()
        step = first_step + s * envs.num_envs
        states = envs.states
        policy.meanwhile.later(partial(_note_states, rollout, states, envs.task, prepare))
        asked = policy.ask(states, behaviour, task=envs.task, seed=action_seed(run_seed, step))
        with policy.stopwatch.on("environments"):
            outcome = envs.step([result.action for result in asked.results])
        policy.meanwhile.later(partial(_store, rollout, s, asked, outcome, worth, step + envs.num_envs))
        for n, state in outcome.final_states.items():
            rollout.final_states[s * envs.num_envs + n] = _seen(state, envs.task)
        if worth and outcome.final_states:
            at = list(outcome.final_states)
            states = list(outcome.final_states.values())
            seed = bootstrap_seed(run_seed, step)
            rollout.bootstrap_values[s, at], stale = _worths(policy, states, envs.task, behaviour, worth, seed)
            rollout.stale[s, at] |= stale
    policy.meanwhile.later(at_end)
    rollout.last_states = [_seen(state, envs.task) for state in envs.states]
    if worth:
        seed = bootstrap_seed(run_seed, first_step + num_steps * envs.num_envs)
        rollout.last_values[:], stale = _worths(policy, envs.states, envs.task, behaviour, worth, seed)
        rollout.stale[-1] |= stale
    policy.meanwhile.run()  # where nobody was asked, what was put off is still to be done
    return rollout


def _seen(state: State, task: str | None) -> SeenState:
    return action_prompt(state.text, task=task), state.actions


def _note_states(
    rollout: Rollout, states: Sequence[State], task: str | None, prepare: Callable[[list[str]], object]
) -> None:
    prompts = [action_prompt(state.text, task=task) for state in states]
    rollout.prompts += prompts
    rollout.action_phrases += [state.actions for state in states]
    prepare(prompts)


def _store(rollout: Rollout, s: int, asked: Asked, outcome: VectorStep, worth: Worth | None, ended_at: int) -> None:
    rollout.actions[s] = [result.action for result in asked.results]
    rollout.log_probs[s] = [result.log_prob for result in asked.results]
    if worth:
        rollout.values[s] = [worth.of(result) for result in asked.results]
    rollout.rewards[s] = outcome.rewards
    rollout.terminated[s] = outcome.terminated
    rollout.truncated[s] = outcome.truncated
    rollout.policy_versions[s] = asked.policy_version
    rollout.stale[s] |= asked.stale
    rollout.episodes += [Episode(ended_at, end.episode_return, end.length) for end in outcome.finished]


def _worths(
    policy: ServedPolicy, states: Sequence[State], task: str | None, behaviour: Behaviour, worth: Worth, seed: int
) -> tuple[Floats, bool]:
    """Returns what states (n,) are worth that no action is taken in, and whether other weights said so."""
    if worth.of_action:
        asked = policy.ask(states, behaviour, task=task, seed=seed)
    else:
        asked = policy.ask(states, GREEDY, task=task)  # only the values matter
    return np.array([worth.of(result) for result in asked.results]), asked.stale
