"""What PPO and A2C share: how they act, and what a rollout's actions were worth."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import NamedTuple

from hintwise.policy import Policy
from hintwise.tokens import TextEncoder
from worker.algorithms.algorithm import NOTHING, VALUE, AlgorithmState, Worth
from worker.algorithms.hyperparameters import ActorCriticHyperparameters
from worker.algorithms.shaping_critic import ShapingCritic
from worker.buffers import Behaviour, Floats, Rollout, explained_variance


class ActorCritic:
    """A policy that samples, and the critics of it.

    Args:
        policy: Changed in place.
        encoder: Turns prompts and phrases into the ids that the service scored.
        shaping_critic: Expects what guidance pays; None where it pays nothing, and one critic is enough.
    """

    q_scale = 0.0
    initial_value = 0.0
    worth: Worth | None = VALUE

    def __init__(self, policy: Policy, encoder: TextEncoder, shaping_critic: ShapingCritic | None) -> None:
        self.policy, self.encoder, self.shaping_critic = policy, encoder, shaping_critic

    def behaviour(self, progress: float) -> Behaviour:
        return Behaviour()

    def state(self) -> AlgorithmState:
        return NOTHING if self.shaping_critic is None else self.shaping_critic.state()

    def restore(self, state: AlgorithmState) -> None:
        if self.shaping_critic is not None:
            self.shaping_critic.restore(state)


class Estimates(NamedTuple):
    """What the actions of a rollout were worth."""

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
