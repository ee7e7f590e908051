"""Collects transitions: one request per vector step carries all environments.

Every transition is stored with the version that chose its action. Before the environments
step, `ServedPolicy.ask` has seen to it that this is the learner's own version; where it could
not, the transition is kept as what really happened but marked stale.

While the service thinks about one step, this side writes down the one before and prepares what
learning will need. One request carries the whole step: docs/decisions/0012 says why not two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from hintwise.prompts import action_prompt
from worker.algorithms.algorithm import VALUE, Worth
from worker.buffers import GREEDY, SAMPLE, Behaviour, Episode, Floats, Rollout, SeenState
from worker.envs import VectorEnvs, VectorStep
from worker.seeds import action_seed, bootstrap_seed
from worker.served_policy import Asked, ServedPolicy
from worker.text_env import State


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
    rollout = Rollout.empty(num_steps, envs.num_envs, behaviour=behaviour)
    judge = _Judge(policy, envs.task, behaviour, worth, run_seed)
    for s in range(num_steps):
        before_step()
        step = first_step + s * envs.num_envs
        states = envs.states
        policy.meanwhile.later(partial(_note_states, rollout, states, envs.task, prepare))
        asked = policy.ask(states, behaviour, task=envs.task, seed=action_seed(run_seed, step))
        with policy.stopwatch.on("environments"):
            outcome = envs.step([result.action for result in asked.results])
        policy.meanwhile.later(partial(_store, rollout, s, asked, outcome, worth, step + envs.num_envs))
        judge.final_states(rollout, s, outcome.final_states, step)
    policy.meanwhile.later(at_end)
    judge.last_states(rollout, envs.states, first_step + num_steps * envs.num_envs)
    policy.meanwhile.run()  # where nobody was asked, what was put off is still to be done
    return rollout


class _Judge:
    """Notes the states behind a rollout in which no action is taken, and asks what they are worth."""

    def __init__(
        self, policy: ServedPolicy, task: str | None, behaviour: Behaviour, worth: Worth | None, run_seed: int
    ) -> None:
        self._policy, self._task, self._run_seed = policy, task, run_seed
        self._behaviour, self._worth = behaviour, worth

    def final_states(self, rollout: Rollout, s: int, states: Mapping[int, State], step: int) -> None:
        """Fills in where a time limit cut episodes at vector step `s`: one request, only when there are any."""
        num_envs = rollout.actions.shape[1]
        rollout.final_states |= {s * num_envs + n: self._seen(state) for n, state in states.items()}
        if states:
            at = list(states)
            rollout.bootstrap_values[s, at], stale = self._worths(list(states.values()), step)
            rollout.stale[s, at] |= stale

    def last_states(self, rollout: Rollout, states: Sequence[State], step: int) -> None:
        """Fills in what follows the last vector step."""
        rollout.last_states = [self._seen(state) for state in states]
        rollout.last_values[:], stale = self._worths(states, step)
        rollout.stale[-1] |= stale

    def _seen(self, state: State) -> SeenState:
        return action_prompt(state.text, task=self._task, hint=state.hint), state.actions

    def _worths(self, states: Sequence[State], step: int) -> tuple[Floats, bool]:
        """Returns what each state is worth, and whether other weights than the learner's said so."""
        if self._worth is None:
            return np.zeros(len(states)), False
        if self._worth.of_action:
            seed = bootstrap_seed(self._run_seed, step)
            asked = self._policy.ask(states, self._behaviour, task=self._task, seed=seed)
        else:
            asked = self._policy.ask(states, GREEDY, task=self._task)  # only the values matter
        return np.array([self._worth.of(result) for result in asked.results]), asked.stale


def _note_states(
    rollout: Rollout, states: Sequence[State], task: str | None, prepare: Callable[[list[str]], object]
) -> None:
    prompts = [action_prompt(state.text, task=task, hint=state.hint) for state in states]
    rollout.prompts += prompts
    rollout.action_phrases += [state.actions for state in states]
    advised = [state for state in states if state.advice is not None]
    rollout.hinted_prompts += [action_prompt(state.text, task=task, hint=state.advice) for state in advised]
    rollout.bare_prompts += [action_prompt(state.text, task=task) for state in advised]
    prepare(prompts)


def _store(rollout: Rollout, s: int, asked: Asked, outcome: VectorStep, worth: Worth | None, ended_at: int) -> None:
    rollout.actions[s] = [result.action for result in asked.results]
    rollout.log_probs[s] = [result.log_prob for result in asked.results]
    if worth:
        rollout.values[s] = [worth.of(result) for result in asked.results]
    rollout.rewards[s] = outcome.rewards
    rollout.trust, rollout.hint_share = outcome.trust, outcome.hint_share
    if outcome.shaping is not None:
        rollout.shaping[s] = outcome.shaping
    rollout.terminated[s] = outcome.terminated
    rollout.truncated[s] = outcome.truncated
    rollout.policy_versions[s] = asked.policy_version
    rollout.stale[s] |= asked.stale
    rollout.episodes += [Episode(ended_at, end.episode_return, end.length, end.hinted) for end in outcome.finished]
