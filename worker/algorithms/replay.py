"""Transitions of up to n steps that are remembered, each state once however often it was met.

transition   state ──▶ entry 7      next ──▶ entry 12, or none behind a terminal state
             reward: r_t + gamma * r_{t+1} + ...             steps: how many rewards that are
entry 7      prompt, legal actions, both encoded          forgotten with the last transition that has it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hintwise.action_batch import ScoredPrompt
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder
from worker.algorithms.algorithm import AlgorithmState
from worker.buffers import Flags, Floats, Rollout, SeenState

NO_STATE = -1
COLUMNS = {
    "states": np.int64,
    "actions": np.int64,
    "rewards": np.float64,
    "steps": np.int64,
    "nexts": np.int64,
}


class Sample(NamedTuple):
    """B transitions drawn."""

    prompts: list[ScoredPrompt]
    actions: NDArray[np.int64]  # (B,) index among the legal ones
    rewards: NDArray[np.float64]  # (B,) sum of the discounted rewards of its steps
    steps: NDArray[np.int64]  # (B,)
    next_prompts: list[ScoredPrompt]  # of those that did not end
    goes_on: NDArray[np.int64]  # which of the B have one, in the same order


class ReplayBuffer:
    """The last `capacity` transitions.

    Args:
        capacity: The oldest is overwritten.
        policy: Says how actions are read.
        encoder: Encodes each state once.
        n_step: Steps of a transition; it has fewer where the rollout or an episode ends.
        gamma: Discount per step.
    """

    def __init__(
        self, capacity: int, policy: Policy, encoder: TextEncoder, *, n_step: int = 1, gamma: float = 1.0
    ) -> None:
        self.capacity = capacity
        self._n_step, self._gamma = n_step, gamma
        self._policy = policy
        self._encoder = encoder
        self.num_seen = 0
        """Transitions of the whole run."""
        self._columns: dict[str, NDArray[Any]] = {name: np.zeros(capacity, kind) for name, kind in COLUMNS.items()}
        self._entries: dict[int, tuple[SeenState, ScoredPrompt]] = {}
        self._number_of: dict[SeenState, int] = {}
        self._uses: dict[int, int] = {}
        self._next_number = 0

    def __len__(self) -> int:
        return min(self.num_seen, self.capacity)

    def add(self, rollout: Rollout) -> None:
        """Remembers every transition of a rollout."""
        seen = list(zip(rollout.prompts, rollout.action_phrases, strict=True))
        numbers = self._numbers([*seen, *rollout.last_states, *rollout.final_states.values()])
        num_steps, num_envs = rollout.actions.shape
        finals = dict(zip(rollout.final_states, numbers[len(seen) + num_envs :], strict=True))
        ended = rollout.terminated | rollout.truncated
        rewards, steps = n_step_rewards(rollout.rewards, ended, n_step=self._n_step, gamma=self._gamma)
        for i in range(num_steps * num_envs):
            s, n = divmod(i, num_envs)
            last = i + (steps[s, n] - 1) * num_envs
            terminal = rollout.terminated.flat[last]
            following = NO_STATE if terminal else finals.get(last, numbers[last + num_envs])
            self._put((numbers[i], rollout.actions[s, n], rewards[s, n], steps[s, n], following))
        self._forget_unused()

    def sample(self, count: int, generator: np.random.Generator) -> Sample:
        """Returns `count` transitions, drawn with replacement; there is at least one."""
        chosen = generator.integers(len(self), size=count)
        states, nexts = self._columns["states"][chosen], self._columns["nexts"][chosen]
        goes_on = np.flatnonzero(nexts != NO_STATE)
        return Sample(
            prompts=[self._entries[number][1] for number in states.tolist()],
            actions=self._columns["actions"][chosen],
            rewards=self._columns["rewards"][chosen],
            steps=self._columns["steps"][chosen],
            next_prompts=[self._entries[number][1] for number in nexts[goes_on].tolist()],
            goes_on=goes_on,
        )

    def state(self) -> AlgorithmState:
        """Returns everything, copied; entries are numbered anew."""
        renumbered = {number: place for place, number in enumerate(self._entries)}
        renumbered[NO_STATE] = NO_STATE
        tensors: dict[str, Tensor] = {}
        for name, column in self._columns.items():
            kept = column[: len(self)]
            if name in ("states", "nexts"):
                kept = np.array([renumbered[number] for number in kept.tolist()], np.int64)
            tensors[f"replay/{name}"] = torch.from_numpy(kept.copy())
        texts = [[prompt, list(phrases)] for (prompt, phrases), _ in self._entries.values()]
        return AlgorithmState(tensors, {"num_seen": self.num_seen, "states": texts})

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Takes back what `state` returned; a column that there used to be is left out."""
        self._entries, self._number_of, self._uses, self._next_number = {}, {}, {}, 0
        self._numbers([(prompt, tuple(phrases)) for prompt, phrases in values["states"]])
        self.num_seen = int(values["num_seen"])
        for name, column in self._columns.items():
            column[: len(self)] = tensors[f"replay/{name}"].numpy()
        for name in ("states", "nexts"):
            for number in self._columns[name][: len(self)].tolist():
                self._count(number, 1)

    def _numbers(self, seen: Sequence[SeenState]) -> list[int]:
        """Returns the entry of each state; new ones are encoded together."""
        new = [each for each in dict.fromkeys(seen) if each not in self._number_of]
        candidates = [self._policy.candidates(self._encoder, phrases) for _, phrases in new]
        for each, prompt in zip(new, self._encoder.scored([text for text, _ in new], candidates), strict=True):
            self._number_of[each] = self._next_number
            self._entries[self._next_number] = each, prompt
            self._uses[self._next_number] = 0
            self._next_number += 1
        return [self._number_of[each] for each in seen]

    def _put(self, values: tuple[Any, ...]) -> None:
        place = self.num_seen % self.capacity
        if self.num_seen >= self.capacity:
            for name in ("states", "nexts"):
                self._count(int(self._columns[name][place]), -1)
        for column, value in zip(self._columns.values(), values, strict=True):
            column[place] = value
        for name in ("states", "nexts"):
            self._count(int(self._columns[name][place]), 1)
        self.num_seen += 1

    def _count(self, number: int, change: int) -> None:
        if number != NO_STATE:
            self._uses[number] += change

    def _forget_unused(self) -> None:
        for number in [number for number, uses in self._uses.items() if not uses]:
            seen, _ = self._entries.pop(number)
            del self._number_of[seen], self._uses[number]


def n_step_rewards(rewards: Floats, ended: Flags, *, n_step: int, gamma: float) -> tuple[Floats, NDArray[np.int64]]:
    """Returns (S, N) sums of up to `n_step` discounted rewards, and how many each sums.

    Args:
        rewards: (S, N).
        ended: (S, N) the episode ended at this step; no sum goes beyond it, nor beyond the last row.
        n_step: Largest number of rewards in a sum.
        gamma: Discount per step.

    Source: Sutton 1988, Learning to predict by the methods of temporal differences.
    """
    sums, steps = rewards.copy(), np.ones(rewards.shape, np.int64)
    going_on = ~ended
    for k in range(1, min(n_step, len(rewards))):
        going_on = going_on[:-1]
        sums[:-k][going_on] += gamma**k * rewards[k:][going_on]
        steps[:-k][going_on] += 1
        going_on = going_on & ~ended[k:]
    return sums, steps
