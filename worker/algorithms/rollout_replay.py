"""The last rollouts, end to end: as one, whose lambda-returns are computed anew from what its actions are worth now.

    rollout k    ... s_T a_T │ s_0 a_0 ...    rollout k + 1 begins where k ended, and traces go on into it
                             └─ of the newest: its `last_values`, as the service answered

The newest rollout's own values stay as the service answered them, where these very weights did. Behind a time limit
stands for all of them what was answered back then: which action that was about is not kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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


class _Kept(NamedTuple):
    rollout: Rollout
    prompts: list[ScoredPrompt]


class RolloutReplay:
    """The last `capacity` rollouts.

    Args:
        capacity: The oldest goes first.
        encode: Called once for each rollout.
    """

    def __init__(self, capacity: int, encode: Encode) -> None:
        self._encode = encode
        self._kept: deque[_Kept] = deque(maxlen=capacity)

    def add(self, rollout: Rollout) -> None:
        """Keeps what returns need of a rollout, which has as many environments as those before it."""
        lean = replace(rollout, episodes=[], hinted_prompts=[], bare_prompts=[])
        self._kept.append(_Kept(lean, self._encode(lean)))

    def transitions(self, values_of: ValuesOf, *, gamma: float, decay: float) -> Transitions:
        """Returns all transitions but stale ones; those take part in the returns of others.

        Args:
            values_of: Says what actions are worth now. Called once at most.
            gamma: Discount per step.
            decay: Lambda.
        """
        newest = self._kept[-1].rollout
        returns = self._returns(self._values(values_of), gamma, decay)
        fresh = np.flatnonzero(~self._joined("stale"))
        prompts = [prompt for _, part in self._kept for prompt in part]
        return Transitions(
            prompts=[prompts[i] for i in fresh],
            actions=self._joined("actions").reshape(-1)[fresh],
            returns=returns.reshape(-1)[fresh],
            num_new=int((~newest.stale).sum()),
        )

    def state(self) -> AlgorithmState:
        """Returns everything; arrays are copied, and nothing changes the rest."""
        states = [rollout_state(rollout) for rollout, _ in self._kept]
        tensors = {f"{_prefix(k)}{name}": tensor for k, (part, _) in enumerate(states) for name, tensor in part.items()}
        return AlgorithmState(tensors, {"rollouts": [values for _, values in states]})

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Takes back what `state` returned.

        Raises:
            CheckpointUnusable: It is not there, or something of it is missing.
        """
        if "rollouts" not in values:
            raise CheckpointUnusable(
                "the checkpoint has no rollouts to learn from: a run's last two have them, and runs begun before SARSA "
                "remembered any have none; go on from one of those, or start a new run"
            )
        self._kept.clear()
        try:
            for k, told in enumerate(values["rollouts"]):
                prefix = _prefix(k)
                own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
                self.add(rollout_of(own, told))
        except ValueError as error:
            raise CheckpointUnusable(f"the checkpoint's rollouts to learn from are damaged: {error}") from error

    def _values(self, values_of: ValuesOf) -> list[Floats]:
        """Returns what the actions of each rollout (S, N) are worth."""
        newest = self._kept[-1].rollout
        by_others = newest.staleness > 0 or newest.stale.any()
        unknown = list(self._kept) if by_others else list(self._kept)[:-1]
        known = [] if by_others else [newest.values]
        if not unknown:
            return known
        prompts = [prompt for _, part in unknown for prompt in part]
        values = values_of(prompts, np.concatenate([rollout.actions.reshape(-1) for rollout, _ in unknown]))
        ends = np.cumsum([rollout.actions.size for rollout, _ in unknown])[:-1]
        shapes = [rollout.actions.shape for rollout, _ in unknown]
        return [part.reshape(shape) for part, shape in zip(np.split(values, ends), shapes, strict=True)] + known

    def _returns(self, values: Sequence[Floats], gamma: float, decay: float) -> Floats:
        """Returns the lambda-return of every step, given what each rollout's actions are worth."""
        following, ended = [], []
        for k, (rollout, _) in enumerate(self._kept):
            goes_on = self._goes_on_behind(k)
            last_values = rollout.last_values
            if goes_on.any():
                last_values = np.where(goes_on, values[k + 1][0], last_values)
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
        """Returns for which environments (N,) the next rollout begins where rollout `k` ended: all, or none behind it.

        Rollouts follow each other without a gap. Should one not, after a resume with a describer whose words have
        changed for instance, a return must not reach into another episode.
        """
        rollout = self._kept[k].rollout
        num_envs = rollout.actions.shape[1]
        if k + 1 == len(self._kept):
            return np.zeros(num_envs, np.bool_)
        following = self._kept[k + 1].rollout
        begins = zip(following.prompts[:num_envs], following.action_phrases[:num_envs], strict=True)
        return np.array([begin == end for begin, end in zip(begins, rollout.last_states, strict=True)], np.bool_)

    def _joined(self, name: str) -> NDArray[Any]:
        return np.concatenate([getattr(rollout, name) for rollout, _ in self._kept])


def _prefix(k: int) -> str:
    return f"rollout-{k}/"
