"""Deep Q-learning: replay, a target network, double Q; loss and update.

    target = r_0 + ... + gamma^(n-1) r_(n-1) + gamma^n Q_target(s', argmax_a' Q(s', a'))
                                                double_q; else max_a' Q_target(s', a'); 0 behind a terminal state
    L      = huber((Q(s, a) - target) / value_scale)

s' is n steps behind s, and a' are its legal actions. A time limit bootstraps from the state it cut off. Transitions of
other weights take part: with one step it does not matter who chose an action, with more it matters little.

Source: Mnih et al. 2015, Human-level control through deep reinforcement learning; van Hasselt et al. 2016, Deep
reinforcement learning with double Q-learning, eq. 4; Hessel et al. 2018, Rainbow, for more steps than one.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from hintwise.policy import Policy
from hintwise.scoring import score
from hintwise.tokens import TextEncoder
from hintwise.weights import state_of
from worker.algorithms.action_values import ADAM_EPSILON, QMetrics, exploration, explore, q_loss
from worker.algorithms.algorithm import AlgorithmState, Worth, descend, set_learning_rate
from worker.algorithms.hyperparameters import DQNHyperparameters
from worker.algorithms.replay import ReplayBuffer, Sample
from worker.buffers import Behaviour, Rollout, mean
from worker.errors import CheckpointUnusable


class DQN:
    """Improves action values from transitions that are remembered.

    Args:
        policy: Changed in place; its scores are action values.
        encoder: Turns prompts and phrases into the ids that the service scored.
        hyperparameters: See `DQNHyperparameters`.
        generator: Draws transitions.
    """

    worth: Worth | None = None

    def __init__(
        self,
        policy: Policy,
        encoder: TextEncoder,
        hyperparameters: DQNHyperparameters,
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
        self.replay = ReplayBuffer(
            hyperparameters.buffer_size,
            policy,
            encoder,
            n_step=hyperparameters.n_step,
            gamma=hyperparameters.gamma,
        )
        self.target: Policy | None = None
        self._num_gradient_steps = 0

    def behaviour(self, progress: float) -> Behaviour:
        return explore(self.hyperparameters, progress)

    def update(self, rollout: Rollout, *, learning_rate: float) -> QMetrics:
        """Remembers a rollout and takes `gradient_steps` steps over what is remembered."""
        set_learning_rate(self.optimizer, learning_rate)
        self.replay.add(rollout)
        if self.target is None:  # not sooner: the policy has its first weights only now
            self.target = _frozen_copy(self.policy)
        hyper = self.hyperparameters
        losses, values, norms = [], [], []
        for _ in range(hyper.gradient_steps if self.replay.num_seen >= hyper.learning_starts else 0):
            sample = self.replay.sample(hyper.minibatch_size, self.generator)
            actions = torch.from_numpy(sample.actions).to(self.policy.device)
            loss, told = q_loss(self.policy, sample.prompts, actions, self._targets(sample, self.target))
            losses.append(loss.item())
            values.append(told.mean().item())
            norms.append(descend(loss, self.policy, self.optimizer, hyper.max_grad_norm))
            self._num_gradient_steps += 1
            if self._num_gradient_steps % hyper.target_network_frequency == 0:
                self._move_target(self.target)
        return QMetrics(
            td_loss=mean(losses),
            mean_q=mean(values),
            grad_norm=mean(norms),
            exploration=exploration(rollout.behaviour),
            num_minibatches=len(losses),
            num_transitions=len(self.replay),
        )

    def state(self) -> AlgorithmState:
        replay = self.replay.state()
        tensors = dict(replay.tensors)
        if self.target is not None:
            tensors |= {f"target/{name}": tensor.cpu().clone() for name, tensor in state_of(self.target).items()}
        return AlgorithmState(tensors, {**replay.values, "num_gradient_steps": self._num_gradient_steps})

    def restore(self, state: AlgorithmState) -> None:
        try:
            self.replay.restore(state.tensors, state.values)
            self._num_gradient_steps = int(state.values["num_gradient_steps"])
            if any(name.startswith("target/") for name in state.tensors):
                self.target = _frozen_copy(self.policy)
                for name, tensor in state_of(self.target).items():
                    tensor.copy_(state.tensors[f"target/{name}"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise CheckpointUnusable(
                f"the checkpoint has no whole replay buffer and target network: {error}"
            ) from error

    @torch.no_grad()
    def _targets(self, sample: Sample, target: Policy) -> Tensor:
        """Returns what Q of the actions taken should be, (B,)."""
        targets = torch.from_numpy(sample.rewards).float()
        if sample.next_prompts:
            values = score(target, sample.next_prompts, only_log_probs=True).scores  # (b, A)
            chooser = values
            if self.hyperparameters.double_q:
                chooser = score(self.policy, sample.next_prompts, only_log_probs=True).scores
            best = values.gather(1, chooser.argmax(1, keepdim=True)).squeeze(1).cpu()
            discounts = torch.from_numpy(self.hyperparameters.gamma ** sample.steps[sample.goes_on]).float()
            targets[torch.from_numpy(sample.goes_on)] += discounts * best
        return targets.to(self.policy.device)

    @torch.no_grad()
    def _move_target(self, target: Policy) -> None:
        ours = state_of(self.policy)
        for name, tensor in state_of(target).items():
            tensor.lerp_(ours[name], self.hyperparameters.tau)


def _frozen_copy(policy: Policy) -> Policy:
    return copy.deepcopy(policy).requires_grad_(False)
