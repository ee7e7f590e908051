"""Advantage actor-critic: loss and update.

    L = -w * A / value_scale * log pi(a|s) + vf_coef * ((V - R) / value_scale)^2  - ent_coef * H[pi(.|s)]

One gradient step over the whole rollout, then it is thrown away: the policy that learns is the one that acted, and w
is 1. Where the rollout was collected ahead, w = min(pi / pi_acted, 2), and no gradient flows through it.
The advantages are generalized ones, which with gae_lambda 1 are the n-step returns of the paper. Both terms are taken
in units of `value_scale`, so that one `vf_coef` and one `ent_coef` fit returns of any size. Stale transitions take part
in the advantages but not in the loss.

Source: Mnih et al. 2016, Asynchronous methods for deep reinforcement learning, section 4; its synchronous form.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

import numpy as np
import torch

from hintwise.policy import Policy
from hintwise.scoring import score
from hintwise.tokens import TextEncoder
from worker.algorithms.actor_critic import ActorCritic, estimate
from worker.algorithms.algorithm import (
    descend,
    entropy,
    flat,
    importance_weights,
    scored_prompts,
    set_learning_rate,
)
from worker.algorithms.hyperparameters import A2CHyperparameters
from worker.algorithms.shaping_critic import ShapingCritic
from worker.buffers import Rollout

RMSPROP_ALPHA, RMSPROP_EPSILON = 0.99, 1e-5  # the paper's decay; stable-baselines3's epsilon


@dataclass(frozen=True)
class A2CMetrics:
    """What one update did; means over its transitions."""

    policy_loss: float
    value_loss: float  # in units of value_scale squared
    entropy: float  # nats
    grad_norm: float  # before clipping
    first_ratio_error: float  # largest |ratio - 1| before the gradient step: trainer against service
    importance_weight: float  # 1 unless the rollout was collected ahead
    explained_variance: float
    shaping_explained_variance: float  # of what guidance pays, by its own critic; nan where there is none
    num_minibatches: int  # gradient steps taken: 1, or 0 where all transitions were stale

    def shown(self) -> list[tuple[str, str]]:
        return [("entropy", f"{self.entropy:.3f}")]


class A2C(ActorCritic):
    """Improves a policy from rollouts.

    Args:
        policy: Changed in place.
        encoder: Turns prompts and phrases into the ids that the service scored.
        hyperparameters: See `A2CHyperparameters`.
        generator: Not used: no transition is drawn.
        shaping_critic: Expects what guidance pays; None where it pays nothing, and one critic is enough.
    """

    def __init__(
        self,
        policy: Policy,
        encoder: TextEncoder,
        hyperparameters: A2CHyperparameters,
        generator: np.random.Generator,
        shaping_critic: ShapingCritic | None = None,
    ) -> None:
        super().__init__(policy, encoder, shaping_critic)
        self.hyperparameters = hyperparameters
        self.optimizer = torch.optim.RMSprop(
            policy.parameters(), lr=hyperparameters.learning_rate, alpha=RMSPROP_ALPHA, eps=RMSPROP_EPSILON
        )

    def update(self, rollout: Rollout, *, learning_rate: float) -> A2CMetrics:
        """Takes one gradient step over the fresh transitions of `rollout`."""
        set_learning_rate(self.optimizer, learning_rate)
        hyper, device = self.hyperparameters, self.policy.device
        estimates = estimate(rollout, hyper, self.shaping_critic)
        variances = estimates.explained_variance, estimates.shaping_explained_variance
        fresh = np.flatnonzero(~rollout.stale)
        if not len(fresh):
            return A2CMetrics(nan, nan, nan, nan, nan, nan, *variances, num_minibatches=0)
        index = torch.from_numpy(fresh).to(device)
        prompts = scored_prompts(rollout, self.policy, self.encoder)
        output = score(self.policy, [prompts[i] for i in fresh], only_log_probs=True)
        actions = torch.from_numpy(rollout.actions.reshape(-1)).to(device)[index]
        log_probs = output.log_probs.gather(1, actions[:, None]).squeeze(1)  # (b,)
        acted_log_probs = flat(rollout.log_probs, device)[index]
        weights = importance_weights(log_probs, acted_log_probs, rollout.staleness)
        advantages, returns = (flat(each, device)[index] for each in (estimates.advantages, estimates.returns))
        policy_loss = -(weights * advantages / self.policy.value_scale * log_probs).mean()
        value_loss = ((output.values - returns) / self.policy.value_scale).square().mean()
        mean_entropy = entropy(output.log_probs).mean()
        loss = policy_loss + hyper.vf_coef * value_loss - hyper.ent_coef * mean_entropy
        ratio_error = (log_probs.detach() - acted_log_probs).exp().sub(1).abs().max()
        return A2CMetrics(
            policy_loss=policy_loss.item(),
            value_loss=value_loss.item(),
            entropy=mean_entropy.item(),
            grad_norm=descend(loss, self.policy, self.optimizer, hyper.max_grad_norm),
            first_ratio_error=ratio_error.item(),
            importance_weight=weights.mean().item(),
            explained_variance=estimates.explained_variance,
            shaping_explained_variance=estimates.shaping_explained_variance,
            num_minibatches=1,
        )
