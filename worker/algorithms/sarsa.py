"""SARSA(lambda): on-policy action values, loss and update.

    delta_t = r_t + gamma * Q(s_{t+1}, a_{t+1}) - Q(s_t, a_t)             0 in place of Q behind a terminal state
    G_t     = Q(s_t, a_t) + sum_k (gamma * lambda)^k * delta_{t+k}        within the rollout and the episode
    L       = huber((Q(s, a) - G) / value_scale)

a_{t+1} is the action that the service chose, exploring; behind a time limit and behind the rollout it is asked for one
that is not taken. G is the forward view of the traces, and the sum is that of generalized advantages with Q(s, a) in
place of V(s). Q in G is what the service answered. Stale transitions take part in the returns but not in the loss.
A rollout that was collected ahead gets no importance weights: what is learned are the values of the policy that acted,
as always here.

Source: Rummery and Niranjan 1994; Sutton and Barto 2018, Reinforcement learning, eq. 12.2 and 10.1.
"""

from __future__ import annotations

import numpy as np
import torch

from hintwise.policy import Policy
from hintwise.tokens import TextEncoder
from worker.algorithms.action_values import ADAM_EPSILON, QMetrics, exploration, explore, q_loss
from worker.algorithms.algorithm import (
    ACTION_VALUE,
    NOTHING,
    AlgorithmState,
    Worth,
    descend,
    flat,
    scored_prompts,
    set_learning_rate,
)
from worker.algorithms.hyperparameters import SARSAHyperparameters
from worker.buffers import Behaviour, Rollout, mean


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
        self.q_scale = hyperparameters.initial_q_scale
        self.initial_value = hyperparameters.initial_value
        self.optimizer = torch.optim.Adam(
            policy.parameters(), lr=hyperparameters.learning_rate, eps=ADAM_EPSILON, fused=True
        )

    def behaviour(self, progress: float) -> Behaviour:
        return explore(self.hyperparameters, progress)

    def state(self) -> AlgorithmState:
        return NOTHING

    def restore(self, state: AlgorithmState) -> None:
        return

    def update(self, rollout: Rollout, *, learning_rate: float) -> QMetrics:
        """Takes `update_epochs` passes over the fresh transitions of `rollout`."""
        set_learning_rate(self.optimizer, learning_rate)
        hyper, device = self.hyperparameters, self.policy.device
        advantages = rollout.advantages(gamma=hyper.gamma, gae_lambda=hyper.sarsa_lambda)
        targets = flat(advantages + rollout.values, device)
        actions = torch.from_numpy(rollout.actions.reshape(-1)).to(device)
        prompts = scored_prompts(rollout, self.policy, self.encoder)
        fresh = np.flatnonzero(~rollout.stale)
        losses, values, norms = [], [], []
        for _ in range(hyper.update_epochs if len(fresh) else 0):
            num_minibatches = max(1, round(len(fresh) / hyper.minibatch_size))
            for chosen in np.array_split(self.generator.permutation(fresh), num_minibatches):
                index = torch.from_numpy(chosen).to(device)
                loss, told = q_loss(self.policy, [prompts[i] for i in chosen], actions[index], targets[index])
                losses.append(loss.item())
                values.append(told.mean().item())
                norms.append(descend(loss, self.policy, self.optimizer, hyper.max_grad_norm))
        return QMetrics(
            td_loss=mean(losses),
            mean_q=mean(values),
            grad_norm=mean(norms),
            exploration=exploration(rollout.behaviour),
            num_minibatches=len(losses),
            num_transitions=len(fresh),
        )
