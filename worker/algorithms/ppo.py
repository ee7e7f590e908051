"""Proximal policy optimization: loss and update.

    L = -w * min(ratio * A, clip(ratio, 1 - c, 1 + c) * A)      ratio = pi(a|s) / pi_old(a|s)
        + vf_coef * ((V - R) / value_scale)^2
        - ent_coef * H[pi(.|s)]
        + distill_coef * share * KL(pi_old(.|s, hint) || pi(.|s))   where hints are shown

Advantages are normalised within a minibatch: divided by their standard deviation, or by `advantage_floor` where that
is more, so that what is left of them where nothing was earned does not count as much as a success. The value loss is
taken in units of `value_scale`, so that one `vf_coef` fits environments whose returns differ by orders of magnitude.
Stale transitions take part in the advantages but not in the loss. Dropout stays off.

pi_old are the weights that the update begins with. They are those that acted, and w is 1, unless the rollout was
collected ahead: then w = min(pi_old / pi_acted, 2), and the clip range stays around pi_old.

Source: Schulman et al. 2017, Proximal policy optimization algorithms, eq. 7 and 9; Hilton et al. 2022, Batch size-
invariance for policy optimization, eq. 2, for w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hintwise.action_batch import ScoredPrompt
from hintwise.policy import Policy, PolicyOutput
from hintwise.scoring import score
from hintwise.tokens import TextEncoder
from worker.algorithms.accumulation import accumulate
from worker.algorithms.actor_critic import ActorCritic, Estimates, estimate
from worker.algorithms.algorithm import (
    entropy,
    flat,
    importance_weights,
    scored_prompts,
    set_learning_rate,
    take_step,
)
from worker.algorithms.hyperparameters import PPOHyperparameters
from worker.algorithms.shaping_critic import ShapingCritic
from worker.buffers import Rollout, mean

ADAM_EPSILON = 1e-5  # CleanRL's and the original implementation's


@dataclass(frozen=True)
class PPOMetrics:
    """What one update did; means over its minibatches unless said otherwise."""

    policy_loss: float
    value_loss: float  # in units of value_scale squared
    entropy: float  # nats
    distill_kl: float  # nats; 0 where nothing is distilled
    approx_kl: float  # nats; mean of (ratio - 1) - log ratio
    clip_fraction: float  # share of ratios beyond the clip range
    grad_norm: float  # before clipping
    first_ratio_error: float  # largest |ratio - 1| before the first gradient step: trainer against service
    importance_weight: float  # 1 unless the rollout was collected ahead
    explained_variance: float
    shaping_explained_variance: float  # of what guidance pays, by its own critic; nan where there is none
    num_minibatches: int  # gradient steps taken

    def shown(self) -> list[tuple[str, str]]:
        return [("KL", f"{self.approx_kl:.4f}")]


class Lessons(NamedTuple):
    """B states with the hint in force and without any: the policy is to do in the second what it did in the first."""

    hinted_log_probs: Tensor  # (B, A) under pi_old; -inf where a state has no such action
    bare: list[ScoredPrompt]


class Experience(NamedTuple):
    """A rollout, flat and encoded: B = S * N transitions."""

    prompts: list[ScoredPrompt]
    actions: Tensor  # (B,) int64
    log_probs: Tensor  # (B,) under pi_old
    weights: Tensor  # (B,) w
    advantages: Tensor  # (B,)
    returns: Tensor  # (B,)
    lessons: Lessons | None  # None where no hints are shown
    distill_share: float  # of distill_coef


class PPO(ActorCritic):
    """Improves a policy from rollouts.

    Args:
        policy: Changed in place.
        encoder: Turns prompts and phrases into the ids that the service scored.
        hyperparameters: See `PPOHyperparameters`.
        generator: Shuffles transitions into minibatches.
        shaping_critic: Expects what guidance pays; None where it pays nothing, and one critic is enough.
    """

    def __init__(
        self,
        policy: Policy,
        encoder: TextEncoder,
        hyperparameters: PPOHyperparameters,
        generator: np.random.Generator,
        shaping_critic: ShapingCritic | None = None,
    ) -> None:
        super().__init__(policy, encoder, shaping_critic)
        self.hyperparameters, self.generator = hyperparameters, generator
        self.optimizer = torch.optim.Adam(
            policy.parameters(), lr=hyperparameters.learning_rate, eps=ADAM_EPSILON, fused=True
        )

    def update(self, rollout: Rollout, *, learning_rate: float) -> PPOMetrics:
        """Takes up to `update_epochs` passes over the fresh transitions of `rollout`."""
        set_learning_rate(self.optimizer, learning_rate)
        hyper = self.hyperparameters
        estimates = estimate(rollout, hyper, self.shaping_critic)
        experience = self._encode(rollout, estimates)
        fresh = np.flatnonzero(~rollout.stale)
        steps: list[dict[str, float]] = []
        if len(fresh):
            for _ in range(hyper.update_epochs):
                if not self._pass_over(experience, fresh, steps):
                    break
        return PPOMetrics(
            **{name: mean(step[name] for step in steps if name in step) for name in _AVERAGED},
            first_ratio_error=steps[0]["ratio_error"] if steps else float("nan"),
            importance_weight=experience.weights.mean().item(),
            explained_variance=estimates.explained_variance,
            shaping_explained_variance=estimates.shaping_explained_variance,
            num_minibatches=sum("grad_norm" in step for step in steps),
        )

    def _pass_over(self, experience: Experience, fresh: NDArray[np.int64], steps: list[dict[str, float]]) -> bool:
        """Takes one gradient step per minibatch; returns False once the KL limit ends the update.

        Source for the limit of 1.5 * target_kl, before the step: stable-baselines3, ppo.py.
        """
        target_kl = self.hyperparameters.target_kl
        num_minibatches = max(1, round(len(fresh) / self.hyperparameters.minibatch_size))
        for chosen in np.array_split(self.generator.permutation(fresh), num_minibatches):
            measured = self._accumulate(experience, chosen)
            steps.append(measured)
            if target_kl is not None and measured["approx_kl"] > 1.5 * target_kl:
                return False
            measured["grad_norm"] = take_step(self.policy, self.optimizer, self.hyperparameters.max_grad_norm)
        return True

    def _accumulate(self, experience: Experience, chosen: NDArray[np.int64]) -> dict[str, float]:
        """Leaves the gradient of a minibatch's loss at the parameters; returns what was measured."""
        advantages = experience.advantages[torch.from_numpy(chosen).to(experience.advantages.device)]
        floor = self.hyperparameters.advantage_floor * self.policy.value_scale.item()
        advantages = _normalised(advantages, floor)
        self.optimizer.zero_grad()
        return accumulate(
            lambda part: self._loss(experience, chosen[part], advantages[part]),
            len(chosen),
            self.hyperparameters.gradient_accumulation,
            largest=frozenset({"ratio_error"}),
        )

    def _loss(
        self, experience: Experience, chosen: NDArray[np.int64], advantages: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Returns the mean loss of chosen transitions, and numbers about it.

        Args:
            experience: Of the rollout.
            chosen: A minibatch, or a part of one.
            advantages: Of the chosen, normalised within their minibatch.
        """
        hyper = self.hyperparameters
        index = torch.from_numpy(chosen).to(experience.actions.device)
        output, distill_kl = self._score(experience, chosen)
        new = output.log_probs.gather(1, experience.actions[index, None]).squeeze(1)  # (b,)
        log_ratio = new - experience.log_probs[index]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - hyper.clip_coef, 1 + hyper.clip_coef)
        policy_loss = -(experience.weights[index] * torch.min(ratio * advantages, clipped * advantages)).mean()
        value_loss = ((output.values - experience.returns[index]) / self.policy.value_scale).square().mean()
        mean_entropy = entropy(output.log_probs).mean()
        loss = policy_loss + hyper.vf_coef * value_loss - hyper.ent_coef * mean_entropy
        if distill_kl is not None:
            loss = loss + hyper.distill_coef * experience.distill_share * distill_kl
        with torch.no_grad():
            measured = {
                "distill_kl": 0.0 if distill_kl is None else distill_kl.item(),
                "policy_loss": policy_loss.item(),
                "value_loss": value_loss.item(),
                "entropy": mean_entropy.item(),
                "approx_kl": (ratio - 1 - log_ratio).mean().item(),
                "clip_fraction": (clipped != ratio).float().mean().item(),
                "ratio_error": (ratio - 1).abs().max().item(),
            }
        return loss, measured

    def _score(self, experience: Experience, chosen: NDArray[np.int64]) -> tuple[PolicyOutput, Tensor | None]:
        """Returns what the policy says about chosen transitions, and the mean KL(pi_old(.|s, hint) || pi(.|s)).

        One question for both: an action that was chosen without a hint is its own lesson, and read once.
        """
        prompts = [experience.prompts[i] for i in chosen]
        if experience.lessons is None:
            return score(self.policy, prompts, only_log_probs=True), None
        asked = prompts + [experience.lessons.bare[i] for i in chosen]
        output = score(self.policy, asked, only_log_probs=True)
        halves = zip(*(each.split(len(chosen)) for each in output), strict=True)
        acted, bare = (PolicyOutput(*half) for half in halves)
        index = torch.from_numpy(chosen).to(bare.log_probs.device)
        hinted = experience.lessons.hinted_log_probs[index, : bare.log_probs.shape[1]]
        # An illegal action adds 0, not NaN.
        difference = (hinted - bare.log_probs).masked_fill(hinted == -torch.inf, 0.0)
        divergence: Tensor = (hinted.exp() * difference).sum(-1).mean()
        return acted, divergence

    def _encode(self, rollout: Rollout, estimates: Estimates) -> Experience:
        device = self.policy.device
        prompts = scored_prompts(rollout, self.policy, self.encoder)
        actions = torch.from_numpy(rollout.actions.reshape(-1)).to(device)
        acted_log_probs = flat(rollout.log_probs, device)
        log_probs = acted_log_probs
        if rollout.staleness:
            log_probs = self._all_log_probs(prompts).gather(1, actions[:, None]).squeeze(1)
        return Experience(
            prompts=prompts,
            actions=actions,
            log_probs=log_probs,
            weights=importance_weights(log_probs, acted_log_probs, rollout.staleness),
            advantages=flat(estimates.advantages, device),
            returns=flat(estimates.returns, device),
            lessons=self._lessons(rollout) if self.hyperparameters.distill_coef * rollout.distill_share else None,
            distill_share=rollout.distill_share,
        )

    def _lessons(self, rollout: Rollout) -> Lessons | None:
        if not rollout.hinted_prompts:
            return None
        candidates = [self.policy.candidates(self.encoder, phrases) for phrases in rollout.action_phrases]
        hinted = self.encoder.scored(rollout.hinted_prompts, candidates)
        return Lessons(self._all_log_probs(hinted), self.encoder.scored(rollout.bare_prompts, candidates))

    @torch.no_grad()
    def _all_log_probs(self, prompts: list[ScoredPrompt]) -> Tensor:
        """Returns log-probabilities (B, A) under the weights as they are, a minibatch's worth at a time."""
        size = self.hyperparameters.minibatch_size
        parts = [score(self.policy, prompts[i : i + size], only_log_probs=True) for i in range(0, len(prompts), size)]
        num_actions = max(part.log_probs.shape[1] for part in parts)
        return torch.cat(
            [pad(part.log_probs, (0, num_actions - part.log_probs.shape[1]), value=-torch.inf) for part in parts]
        )


_AVERAGED = "policy_loss", "value_loss", "entropy", "distill_kl", "approx_kl", "clip_fraction", "grad_norm"


def _normalised(advantages: Tensor, floor: float) -> Tensor:
    """Returns advantages with mean 0 and standard deviation 1, less where it was below `floor`; a lone one stays."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std().clamp(min=floor) + 1e-8)
