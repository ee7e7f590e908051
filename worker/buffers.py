"""What a rollout remembers, and the advantages computed from it.

Arrays are (S, N): S steps of N environments. A row is one vector step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


SeenState = tuple[str, tuple[str, ...]]
"""A prompt and the phrases of its legal actions."""


class Behaviour(NamedTuple):
    """How the service chooses actions for a rollout: fields of `/act`."""

    mode: Literal["sample", "greedy", "epsilon"] = "sample"
    epsilon: float | None = None
    temperature: float = 1.0


SAMPLE, GREEDY = Behaviour(), Behaviour("greedy")


class Episode(NamedTuple):
    """One finished episode."""

    step: int  # environment steps of the whole run when it ended
    episode_return: float  # undiscounted sum of the environment's own rewards
    length: int  # steps
    hinted: bool = False  # whether the policy was shown hints


@dataclass
class Rollout:
    """S steps of N environments, filled row by row; flat lists run over environments first."""

    prompts: list[str]  # (S * N)
    action_phrases: list[tuple[str, ...]]  # (S * N) legal actions
    actions: NDArray[np.int64]  # (S, N) index into the legal actions
    log_probs: Floats  # (S, N) of the action, under the policy that chose it
    values: Floats  # (S, N) of the state, or of the action taken in it: what the algorithm reads from the answer
    rewards: Floats  # (S, N)
    terminated: Flags  # (S, N)
    truncated: Flags  # (S, N)
    bootstrap_values: Floats  # (S, N) value of the final observation where truncated, else 0
    policy_versions: NDArray[np.int64]  # (S, N) version that chose the action
    shaping: Floats  # (S, N) of the rewards, what guidance added
    stale: Flags  # (S, N) another version than the learner's had a hand in it
    last_values: Floats  # (N,) value of the observation after the last step
    final_states: dict[int, SeenState] = field(default_factory=dict)  # at s * N + n, where truncated, not terminated
    last_states: list[SeenState] = field(default_factory=list)  # (N,) after the last step
    episodes: list[Episode] = field(default_factory=list)
    hinted_prompts: list[str] = field(default_factory=list)  # (S * N) with the hint in force; none where nothing guides
    bare_prompts: list[str] = field(default_factory=list)  # (S * N) the same without
    behaviour: Behaviour = SAMPLE  # how the actions were chosen
    trust: float = 1.0  # how far guidance was trusted in the end, 0 to 1
    hint_share: float = 0.0  # in the end, probability that an episode which begins next shows the policy its hints
    distill_share: float = 0.0  # of PPO's distill_coef: falls with guidance, 0 where no hints are shown
    staleness: int = 0  # updates between the weights that acted and those that learn from it

    @classmethod
    def empty(cls, num_steps: int, num_envs: int, *, behaviour: Behaviour = SAMPLE) -> Rollout:
        """Returns a rollout of zeros to be filled."""
        shape = num_steps, num_envs
        return cls(
            prompts=[],
            action_phrases=[],
            actions=np.zeros(shape, np.int64),
            log_probs=np.zeros(shape),
            values=np.zeros(shape),
            rewards=np.zeros(shape),
            terminated=np.zeros(shape, np.bool_),
            truncated=np.zeros(shape, np.bool_),
            bootstrap_values=np.zeros(shape),
            policy_versions=np.zeros(shape, np.int64),
            shaping=np.zeros(shape),
            stale=np.zeros(shape, np.bool_),
            last_values=np.zeros(num_envs),
            behaviour=behaviour,
        )

    @property
    def num_stale(self) -> int:
        return int(self.stale.sum())

    def advantages(self, *, gamma: float, gae_lambda: float) -> Floats:
        """Returns (S, N) advantages; stale transitions take part, for they really happened."""
        return generalized_advantages(
            self.rewards,
            self.values,
            next_values(self.values, self.last_values, self.terminated, self.truncated, self.bootstrap_values),
            self.terminated | self.truncated,
            gamma=gamma,
            gae_lambda=gae_lambda,
        )


def next_values(
    values: Floats, last_values: Floats, terminated: Flags, truncated: Flags, bootstrap_values: Floats
) -> Floats:
    """Returns (S, N) values of what follows each step: 0 after a terminal state, the final observation's at a limit.

    A time limit ends the episode, not the task: the return goes on beyond it, so its final
    observation is bootstrapped. Where a step both terminates and is truncated, the task is over.

    Source: Pardo et al. 2018, Time limits in reinforcement learning, eq. 6.
    """
    following = np.concatenate([values[1:], last_values[None]])
    following = np.where(truncated, bootstrap_values, following)
    return np.where(terminated, 0.0, following)


def generalized_advantages(
    rewards: Floats, values: Floats, following: Floats, ended: Flags, *, gamma: float, gae_lambda: float
) -> Floats:
    """Returns (S, N) advantages.

        delta_t = r_t + gamma * V_next_t - V_t
        A_t     = delta_t + gamma * lambda * A_{t+1}        cut where an episode ended at t

    Args:
        rewards: (S, N).
        values: (S, N) of the observation acted on.
        following: (S, N) V_next, as `next_values` returns it.
        ended: (S, N) terminated or truncated.
        gamma: Discount, 0..1.
        gae_lambda: 0 is one-step temporal difference, 1 Monte Carlo.

    Source: Schulman et al. 2016, High-dimensional continuous control using GAE, eq. 16.
    """
    deltas = rewards + gamma * following - values
    advantages = np.zeros_like(deltas)
    later: Floats = np.zeros(deltas.shape[1])
    for t in reversed(range(len(deltas))):
        later = deltas[t] + gamma * gae_lambda * np.where(ended[t], 0.0, later)
        advantages[t] = later
    return advantages


def explained_variance(values: Floats, returns: Floats) -> float:
    """Returns 1 - Var[returns - values] / Var[returns]: 1 is perfect, 0 no better than a constant; nan if Var is 0."""
    variance = float(np.var(returns))
    return 1 - float(np.var(returns - values)) / variance if variance > 0 else float("nan")


def mean(numbers: Iterable[float]) -> float:
    """Returns the arithmetic mean; nan of nothing."""
    found = list(numbers)
    return sum(found) / len(found) if found else float("nan")
