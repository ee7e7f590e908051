"""SARSA(lambda): on-policy action values, loss and update.

    delta_t = r_t + gamma * Q(s_{t+1}, a_{t+1}) - Q(s_t, a_t)             0 in place of Q behind a terminal state
    G_t     = Q(s_t, a_t) + sum_k (gamma * lambda)^k * delta_{t+k}        within what is remembered and the episode
    L       = huber((Q(s, a) - G) / value_scale)

a_{t+1} is the action that the service chose, exploring; behind a time limit and behind the newest rollout it is asked
for one that is not taken. G is the forward view of the traces, and the sum is that of generalized advantages with
Q(s, a) in place of V(s). Stale transitions take part in the returns but not in the loss. A rollout that was collected
ahead gets no importance weights: what is learned are the values of the policy that acted, as always here.

An update learns from the last `replay_rollouts` rollouts, and Q in G is that of the weights of the moment
(`worker.algorithms.rollout_replay`; docs/decisions/0022 says why). The actions are those of policies a few updates
old: the values learned are those of how was acted lately.

Source: Rummery and Niranjan 1994; Sutton and Barto 2018, Reinforcement learning, eq. 12.2 and 10.1; Daley and Amato
2019, Reconciling lambda-returns with experience replay, for returns that are computed anew over what is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hintwise.action_batch import ScoredPrompt
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder
from worker.algorithms.action_values import ADAM_EPSILON, QMetrics, exploration, explore, q_loss, values_of_actions
from worker.algorithms.algorithm import (
    ACTION_VALUE,
    AlgorithmState,
    Worth,
    descend,
    flat,
    scored_prompts,
    set_learning_rate,
)
from worker.algorithms.hyperparameters import SARSAHyperparameters
from worker.algorithms.reading import read_distinct
from worker.algorithms.rollout_replay import RolloutReplay
from worker.buffers import Behaviour, Floats, Rollout, mean


class SARSA:
    """Improves action values from rollouts.

    Args:
        policy: Changed in place; its scores are action values.
        encoder: Turns prompts and phrases into the ids that the service scored.
        hyperparameters: See `SARSAHyperparameters`.
        generator: Shuffles transitions into minibatches.
    """

    worth: Worth | None = ACTION_VALUE

    def __init__(
        self,
        policy: Policy,
        encoder: TextEncoder,
        hyperparameters: SARSAHyperparameters,
        generator: np.random.Generator,
    ) -> None:
        self.policy = policy
        self.encoder = encoder
        self.hyperparameters = hyperparameters
        self.generator = generator
        self.replay = RolloutReplay(
            hyperparameters.replay_rollouts, lambda rollout: scored_prompts(rollout, policy, encoder)
        )
        self.q_scale = hyperparameters.initial_q_scale
        self.initial_value = hyperparameters.initial_value
        self.optimizer = torch.optim.Adam(
            policy.parameters(), lr=hyperparameters.learning_rate, eps=ADAM_EPSILON, fused=True
        )

    def behaviour(self, progress: float) -> Behaviour:
        return explore(self.hyperparameters, progress)

    def state(self) -> AlgorithmState:
        return self.replay.state()

    def restore(self, state: AlgorithmState) -> None:
        self.replay.restore(state.tensors, state.values)

    def update(self, rollout: Rollout, *, learning_rate: float) -> QMetrics:
        """Takes the gradient steps of `update_epochs` passes over `rollout`, but over all that is remembered.

        A rollout that is stale as a whole is remembered, and no step is taken.
        """
        set_learning_rate(self.optimizer, learning_rate)
        hyper, device = self.hyperparameters, self.policy.device
        self.replay.add(rollout)
        known = self.replay.transitions(self._values_now, gamma=hyper.gamma, decay=hyper.sarsa_lambda)
        actions, targets = torch.from_numpy(known.actions).to(device), flat(known.returns, device)
        losses, values, norms = [], [], []
        for chosen in self._minibatches(len(known.prompts), hyper.update_epochs * known.num_new):
            index = torch.from_numpy(chosen).to(device)
            loss, told = q_loss(self.policy, [known.prompts[i] for i in chosen], actions[index], targets[index])
            losses.append(loss.item())
            values.append(told.mean().item())
            norms.append(descend(loss, self.policy, self.optimizer, hyper.max_grad_norm))
        return QMetrics(
            td_loss=mean(losses),
            mean_q=mean(values),
            grad_norm=mean(norms),
            exploration=exploration(rollout.behaviour),
            num_minibatches=len(losses),
            num_transitions=len(known.prompts),
        )

    def _minibatches(self, num_known: int, count: int) -> list[NDArray[np.int64]]:
        """Returns `count` places below `num_known` in minibatches: all of them, shuffled, as often as it takes."""
        if not count:
            return []
        passes = [self.generator.permutation(num_known) for _ in range(math.ceil(count / num_known))]
        order = np.concatenate(passes)[:count]
        return np.array_split(order, max(1, round(count / self.hyperparameters.minibatch_size)))

    def _values_now(self, prompts: Sequence[ScoredPrompt], actions: NDArray[np.int64]) -> Floats:
        """Returns Q (b,) of the actions, by the weights as they are."""

        def read(asked: Sequence[tuple[ScoredPrompt, int]]) -> Tensor:
            few, taken = zip(*asked, strict=True)
            return values_of_actions(self.policy, few, torch.tensor(taken))

        return read_distinct(list(zip(prompts, actions.tolist(), strict=True)), read)
