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

from hintwise.prompts import action_prompt
from worker.buffers import Episode, Rollout
from worker.envs import VectorEnvs, VectorStep
from worker.seeds import action_seed
from worker.served_policy import Asked, ServedPolicy
from worker.text_env import State


def collect_rollout(
    policy: ServedPolicy,
    envs: VectorEnvs,
    *,
    num_steps: int,
    first_step: int,
    run_seed: int,
    before_step: Callable[[], None] = lambda: None,
    prepare: Callable[[list[str]], object] = lambda prompts: None,
    at_end: Callable[[], object] = lambda: None,
) -> Rollout:
    """Returns `num_steps` steps of every environment.

    Args:
        policy: Chooses the actions, sampled.
        envs: Are stepped, and stay where the rollout ends.
        num_steps: Vector steps, S.
        first_step: Environment steps of the run so far; action seeds derive from it.
        run_seed: Seed of the run.
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
        asked = policy.ask(states, task=envs.task, mode="sample", seed=action_seed(run_seed, step))
        with policy.stopwatch.on("environments"):
            outcome = envs.step([result.action for result in asked.results])
        policy.meanwhile.later(partial(_store, rollout, s, asked, outcome, step + envs.num_envs))
        _bootstrap(rollout, s, outcome, policy, envs.task)
    policy.meanwhile.later(at_end)
    last = policy.ask(envs.states, task=envs.task, mode="greedy")  # only the values matter
    rollout.last_values[:] = [result.value for result in last.results]
    rollout.stale[-1] |= last.stale
    return rollout


def _note_states(
    rollout: Rollout, states: Sequence[State], task: str | None, prepare: Callable[[list[str]], object]
) -> None:
    prompts = [action_prompt(state.text, task=task) for state in states]
    rollout.prompts += prompts
    rollout.action_phrases += [state.actions for state in states]
    prepare(prompts)


def _store(rollout: Rollout, s: int, asked: Asked, outcome: VectorStep, ended_at: int) -> None:
    rollout.actions[s] = [result.action for result in asked.results]
    rollout.log_probs[s] = [result.log_prob for result in asked.results]
    rollout.values[s] = [result.value for result in asked.results]
    rollout.rewards[s] = outcome.rewards
    rollout.terminated[s] = outcome.terminated
    rollout.truncated[s] = outcome.truncated
    rollout.policy_versions[s] = asked.policy_version
    rollout.stale[s] |= asked.stale
    rollout.episodes += [Episode(ended_at, end.episode_return, end.length) for end in outcome.finished]


def _bootstrap(rollout: Rollout, s: int, outcome: VectorStep, policy: ServedPolicy, task: str | None) -> None:
    """Fills the values of final states where a time limit cut an episode: one request, only when there are any."""
    if not outcome.final_states:
        return
    at = list(outcome.final_states)
    asked = policy.ask(list(outcome.final_states.values()), task=task, mode="greedy")
    rollout.bootstrap_values[s, at] = [result.value for result in asked.results]
    rollout.stale[s, at] |= asked.stale
