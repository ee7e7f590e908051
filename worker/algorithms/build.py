"""The algorithm that a run's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintwise.policy import Policy
from hintwise.tokens import TextEncoder
from worker.algorithms.a2c import A2C
from worker.algorithms.algorithm import Algorithm
from worker.algorithms.dqn import DQN
from worker.algorithms.ppo import PPO
from worker.algorithms.sarsa import SARSA
from worker.algorithms.shaping_critic import ShapingCritic

if TYPE_CHECKING:
    from worker.config import TrainConfig


def build_algorithm(
    config: TrainConfig, policy: Policy, encoder: TextEncoder, generator: np.random.Generator
) -> Algorithm:
    """Returns the algorithm of `config.algorithm`, which reads its hyperparameters from `config`."""
    match config.algorithm:
        case "ppo":
            return PPO(policy, encoder, config, generator, _shaping_critic(config, policy, encoder))
        case "a2c":
            return A2C(policy, encoder, config, generator, _shaping_critic(config, policy, encoder))
        case "dqn":
            return DQN(policy, encoder, config, generator)
        case "sarsa":
            return SARSA(policy, encoder, config, generator)


def _shaping_critic(config: TrainConfig, policy: Policy, encoder: TextEncoder) -> ShapingCritic | None:
    if not config.pays_for_guidance:
        return None
    return ShapingCritic(policy, encoder, gamma=config.gamma, gae_lambda=config.gae_lambda)
