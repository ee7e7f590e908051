"""The last rollouts, end to end: as one, whose returns are computed anew from what the weights make of its states now.

    rollout k    ... Q(s_T, a_T)  ─┬─▶  rollout k+1    Q(s_0, a_0) ...       k+1 begins where k ended: traces go on
                                   └─▶  last_values                          it does not: what was answered back then

What the newest rollout says of its own states stays as the service answered it: these weights did. Behind a time
limit it stays for all of them, for the action that would have followed was never taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hintwise.action_batch import ScoredPrompt
from worker.algorithms.algorithm import AlgorithmState
from worker.buffers import Flags, Floats, Rollout, generalized_advantages, next_values
from worker.errors import CheckpointUnusable
from worker.rollout_state import rollout_of, rollout_state

Encode = Callable[[Rollout], list[ScoredPrompt]]
"""Returns the B prompts of a rollout with their legal actions, encoded."""
ValuesOf = Callable[[Sequence[ScoredPrompt], NDArray[np.int64]], Floats]
"""Returns what b actions are worth (b,), each an index among the legal ones of its prompt."""


class Transitions(NamedTuple):
    """B transitions that can be learned from."""

    prompts: list[ScoredPrompt]
    actions: NDArray[np.int64]  # (B,) index among the legal ones
    returns: Floats  # (B,) lambda-returns
    num_new: int  # of them, from the newest rollout


class _Remembered(NamedTuple):
    rollout: Rollout
    prompts: list[ScoredPrompt]


class RecentRollouts:
    """The last `capacity` rollouts.

    Args:
        capacity: The oldest goes first.
        encode: Called once for each rollout.
    """

    def __init__(self, capacity: int, encode: Encode) -> None:
        self._encode = encode
        self._kept: deque[_Remembered] = deque(maxlen=capacity)

    def add(self, rollout: Rollout) -> None:
        """Remembers a rollout of as many environments as those before it."""
        self._kept.append(_Remembered(rollout, self._encode(rollout)))

    def transitions(self, values_of: ValuesOf, *, gamma: float, decay: float) -> Transitions:
        """Returns all transitions but stale ones; those take part in the returns of others.

        Args:
            values_of: Says what the actions of all rollouts but the newest are worth now.
            gamma: Discount per step.
            decay: Lambda.
        """
        *older, newest = self._kept
        values = [
            values_of(prompts, rollout.actions.reshape(-1)).reshape(rollout.actions.shape) for rollout, prompts in older
        ]
        returns = self._returns([*values, newest.rollout.values], gamma, decay)
        fresh = np.flatnonzero(~self._joined("stale"))
        prompts = [prompt for _, part in self._kept for prompt in part]
        return Transitions(
            prompts=[prompts[i] for i in fresh],
            actions=self._joined("actions").reshape(-1)[fresh],
            returns=returns.reshape(-1)[fresh],
            num_new=int((~newest.rollout.stale).sum()),
        )

    def state(self) -> AlgorithmState:
        """Returns everything, copied."""
        states = [rollout_state(rollout) for rollout, _ in self._kept]
        tensors = {f"rollout-{k}/{name}": tensor for k, (part, _) in enumerate(states) for name, tensor in part.items()}
        return AlgorithmState(tensors, {"rollouts": [values for _, values in states]})

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Takes back what `state` returned.

        Raises:
            CheckpointUnusable: Something of it is missing.
        """
        try:
            self._kept.clear()
            for k, told in enumerate(values["rollouts"]):
                of_this = {
                    name.removeprefix(f"rollout-{k}/"): each for name, each in tensors.items() if _is_of(name, k)
                }
                self.add(rollout_of(of_this, told))
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointUnusable(f"the checkpoint does not hold the rollouts learned from: {error}") from error

    def _returns(self, values: Sequence[Floats], gamma: float, decay: float) -> Floats:
        """Returns the lambda-return of every step, given what each rollout's actions are worth."""
        following, ended = [], []
        for k, (rollout, _) in enumerate(self._kept):
            goes_on = self._goes_on_behind(k)
            last_values = (
                np.where(goes_on, values[k + 1][0], rollout.last_values) if goes_on.any() else rollout.last_values
            )
            following.append(
                next_values(values[k], last_values, rollout.terminated, rollout.truncated, rollout.bootstrap_values)
            )
            ends = rollout.terminated | rollout.truncated
            ends[-1] |= ~goes_on
            ended.append(ends)
        every = np.concatenate(values)
        advantages = generalized_advantages(
            self._joined("rewards"),
            every,
            np.concatenate(following),
            np.concatenate(ended),
            gamma=gamma,
            gae_lambda=decay,
        )
        return advantages + every

    def _goes_on_behind(self, k: int) -> Flags:
        """Returns for which environments (N,) the next rollout begins where rollout `k` ended."""
        rollout, last_states = self._kept[k].rollout, self._kept[k].rollout.last_states
        if k + 1 == len(self._kept):
            return np.zeros(rollout.actions.shape[1], np.bool_)
        following = self._kept[k + 1].rollout
        begins = zip(following.prompts, following.action_phrases, strict=True)
        return np.array([begin == end for begin, end in zip(begins, last_states, strict=False)])

    def _joined(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(rollout, name) for rollout, _ in self._kept])


def _is_of(name: str, k: int) -> bool:
    return name.startswith(f"rollout-{k}/")
