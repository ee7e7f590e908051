"""What a rollout's actions were worth, for actor-critic: of the environment's reward, and of what guidance paid."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import NamedTuple

from worker.algorithms.hyperparameters import ActorCriticHyperparameters
from worker.algorithms.shaping_critic import ShapingCritic
from worker.buffers import Floats, Rollout, explained_variance


class Estimates(NamedTuple):
    advantages: Floats  # (S, N) for the policy: of all that was paid
    returns: Floats  # (S, N) for the policy's critic
    explained_variance: float  # of those returns
    shaping_explained_variance: float  # nan without a critic of shaping


def estimate(rollout: Rollout, hyper: ActorCriticHyperparameters, critic: ShapingCritic | None) -> Estimates:
    """Returns generalized advantages and returns.

    Args:
        rollout: Its `values` are the policy's critic's.
        hyper: Discount and decay.
        critic: Expects what guidance pays, and learns from the rollout. With it the policy's own critic is left with
            the environment's reward alone; without it there is one for both.
    """
    own = rollout if critic is None else replace(rollout, rewards=rollout.rewards - rollout.shaping)
    advantages = own.advantages(gamma=hyper.gamma, gae_lambda=hyper.gae_lambda)
    returns = advantages + rollout.values
    variance = explained_variance(rollout.values, returns)
    if critic is None:
        return Estimates(advantages, returns, variance, nan)
    both = advantages + critic.advantages(rollout)
    return Estimates(both, returns, variance, critic.explained_variance)
