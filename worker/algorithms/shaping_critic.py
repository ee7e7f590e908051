"""What guidance is going to pay: a critic of its own, beside the policy's, which expects the environment's reward.

    V_shaping(s) = w . h(s) + b                                   h: the policy's last hidden state of the prompt
    w, b         = argmin mean_i (w . h_i + b - G_i)^2 + RIDGE * |w * std(h)|^2
    A            = A_environment + A_shaping                      each with its own values

G are the lambda-returns of what guidance paid in the last rollout. One critic for both would have to follow pay that
changes with the gate and may add up to many times what success earns; its errors would then drown the environment's
reward. Least squares need no step size and no scale of what is paid. No gradient flows into the trunk. What is paid for
obedience changes faster than any fit, and hardly follows from the state: without a strong ridge the expectations are
worse than none, and so are those of more than a rollout ago.

Source: Burda et al. 2019, Exploration by random network distillation, section 2.3, for two critics; Bradtke and Barto
1996, Linear least-squares algorithms for temporal difference learning, for the fit; Hastie et al. 2009, The elements of
statistical learning, eq. 3.44, for the ridge.
"""

from __future__ import annotations

from math import nan

import numpy as np
import torch

from hintwise.policy import Policy
from hintwise.scoring import score_distinct
from hintwise.tokens import TextEncoder
from worker.algorithms.algorithm import AlgorithmState
from worker.algorithms.reading import read_distinct
from worker.buffers import Floats, Rollout, SeenState, explained_variance, generalized_advantages, next_values
from worker.errors import CheckpointUnusable

WEIGHTS = "shaping/weights"
RIDGE = 1.0
"""For hidden numbers of standard deviation 1."""
LEAST_SPREAD = 1e-6
"""Of the largest: below it a number is taken for constant."""


class ShapingCritic:
    """Expects what guidance pays from a state on.

    Args:
        policy: Whose hidden states it reads.
        encoder: Turns prompts and phrases into the ids that the service scored.
        gamma: Discount per step.
        gae_lambda: Decay of generalized advantage estimation.

    Attributes:
        explained_variance: Of the last rollout's returns, as they were expected; nan where nothing was paid in it.
    """

    def __init__(self, policy: Policy, encoder: TextEncoder, *, gamma: float, gae_lambda: float) -> None:
        self._policy, self._encoder = policy, encoder
        self._gamma, self._gae_lambda = gamma, gae_lambda
        self._weights = np.zeros(policy.value_head.in_features + 1)  # the last one is the constant's
        self.explained_variance = nan

    def advantages(self, rollout: Rollout) -> Floats:
        """Returns (S, N) advantages of what guidance paid in a rollout, and learns from it for the next."""
        shape, at_limits = rollout.shaping.shape, list(rollout.final_states)
        taken = list(zip(rollout.prompts, rollout.action_phrases, strict=True))
        states = self._states([*taken, *rollout.last_states, *rollout.final_states.values()])
        worths = states @ self._weights
        values, last_values, finals = np.split(worths, [len(taken), len(taken) + shape[1]])
        bootstrap_values = np.zeros(len(taken))
        bootstrap_values[at_limits] = finals
        following = next_values(
            values.reshape(shape), last_values, rollout.terminated, rollout.truncated, bootstrap_values.reshape(shape)
        )
        advantages = generalized_advantages(
            rollout.shaping,
            values.reshape(shape),
            following,
            rollout.terminated | rollout.truncated,
            gamma=self._gamma,
            gae_lambda=self._gae_lambda,
        )
        returns = advantages.reshape(-1) + values
        self.explained_variance = explained_variance(values, returns) if rollout.shaping.any() else nan
        self._weights = fitted(states[: len(taken), :-1], returns)
        return advantages

    def state(self) -> AlgorithmState:
        """Returns what `restore` needs to go on exactly."""
        return AlgorithmState({WEIGHTS: torch.from_numpy(self._weights.copy())}, {})

    def restore(self, state: AlgorithmState) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointUnusable: It holds no critic of shaping, or that of a model of another width.
        """
        kept = state.tensors.get(WEIGHTS)
        if kept is None:
            raise CheckpointUnusable(
                "the checkpoint has no critic of what guidance pays: a run's last two have it, and runs begun "
                "before there was one have none; go on from one of those, or start a new run"
            )
        if tuple(kept.shape) != self._weights.shape:
            raise CheckpointUnusable("the checkpoint's critic of what guidance pays is of a model of another width")
        self._weights = kept.numpy().copy()

    def _states(self, seen: list[SeenState]) -> Floats:
        """Returns (B, H + 1) hidden states under the policy's present weights, and a constant."""
        prompts = self._encoder.scored(
            [prompt for prompt, _ in seen], [self._policy.candidates(self._encoder, phrases) for _, phrases in seen]
        )
        hidden = read_distinct(prompts, lambda few: score_distinct(self._policy, few, only_log_probs=True).states)
        return np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)


def fitted(states: Floats, returns: Floats) -> Floats:
    """Returns (H + 1,) weights, the constant's last, for (B, H) states and (B,) returns."""
    mean, spread = states.mean(0), states.std(0)
    spread = np.where(spread > LEAST_SPREAD * spread.max(), spread, np.inf)  # what never changes tells nothing
    standard = (states - mean) / spread
    squares, products = standard.T @ standard / len(states), standard.T @ (returns - returns.mean()) / len(states)
    weights = np.linalg.solve(squares + RIDGE * np.eye(len(mean)), products) / spread
    return np.append(weights, returns.mean() - weights @ mean)
