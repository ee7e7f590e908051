"""What DQN and SARSA have in common: how they explore, and their loss.

    L = huber((Q(s, a) - target) / value_scale)        huber(x) = x^2 / 2 where |x| < 1, |x| - 1/2 beyond
    epsilon, temperature: from start to end over the first `exploration_fraction` of the run, linearly

Source: Mnih et al. 2015, Human-level control through deep reinforcement learning (the loss is clipped there
in the same way: its gradient is at most 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hintwise.action_batch import ScoredPrompt
from hintwise.policy import Policy
from hintwise.scoring import score
from worker.algorithms.hyperparameters import QHyperparameters
from worker.buffers import Behaviour

ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class QMetrics:
    """What one update did; means over its minibatches, nan where no gradient step was taken."""

    td_loss: float  # in units of value_scale
    mean_q: float  # of the actions taken
    grad_norm: float  # before clipping
    exploration: float  # epsilon, or the temperature of softmax
    num_minibatches: int  # gradient steps taken
    num_transitions: int  # that could be drawn

    def shown(self) -> list[tuple[str, str]]:
        return [("mean Q", f"{self.mean_q:.2f}"), ("exploration", f"{self.exploration:.3f}")]


def explore(hyper: QHyperparameters, progress: float) -> Behaviour:
    """Returns how to act at a share of the run, 0 to 1."""
    share = min(1.0, progress / hyper.exploration_fraction) if hyper.exploration_fraction else 1.0
    if hyper.exploration == "epsilon":
        return Behaviour("epsilon", epsilon=hyper.start_epsilon + share * (hyper.end_epsilon - hyper.start_epsilon))
    fall = hyper.end_temperature - hyper.start_temperature
    return Behaviour("sample", temperature=hyper.start_temperature + share * fall)


def exploration(behaviour: Behaviour) -> float:
    """Returns epsilon, or the temperature where actions are drawn."""
    return behaviour.temperature if behaviour.epsilon is None else behaviour.epsilon


def values_of_actions(policy: Policy, prompts: Sequence[ScoredPrompt], actions: Tensor) -> Tensor:
    """Returns Q (b,) of one action of each prompt (b,), its index among the legal ones."""
    scores = score(policy, prompts, only_log_probs=True).scores
    return scores.gather(1, actions.to(scores.device)[:, None]).squeeze(1)


def q_loss(policy: Policy, prompts: Sequence[ScoredPrompt], actions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean loss, and Q (b,) of the actions.

    Args:
        policy: Whose scores are action values.
        prompts: (b,) states with their legal actions.
        actions: (b,) index among them.
        targets: (b,) what Q should be, in units of return.
    """
    values = values_of_actions(policy, prompts, actions)
    errors = (values - targets) / policy.value_scale
    return functional.smooth_l1_loss(errors, torch.zeros_like(errors)), values.detach()
