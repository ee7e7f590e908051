"""What guidance is going to pay: a critic of its own, beside the policy's, which expects the environment's reward.

    V_shaping(s) = w . h(s) + b                                   h: the policy's last hidden state of the prompt
    w, b         = argmin mean_i f_i (w . h_i + b - G_i)^2 + RIDGE * |w * std(h)|^2
    A            = A_environment + A_shaping                      each with its own values

G are the lambda-returns of what guidance paid, f what is left of older transitions. One critic for both would have to
follow pay that changes with the gate and may add up to many times what success earns; its errors would then drown the
environment's reward. Least squares need no step size and no scale of what is paid. No gradient flows into the trunk.

Source: Burda et al. 2019, Exploration by random network distillation, section 2.3, for two critics; Bradtke and Barto
1996, Linear least-squares algorithms for temporal difference learning, for the fit; Hastie et al. 2009, The elements of
statistical learning, eq. 3.44, for the ridge.
"""

from __future__ import annotations

from math import nan

import numpy as np
import torch

from hintwise.policy import Policy
from hintwise.scoring import score
from hintwise.tokens import TextEncoder
from worker.algorithms.algorithm import AlgorithmState
from worker.buffers import Floats, Rollout, SeenState, explained_variance, generalized_advantages, next_values
from worker.errors import CheckpointUnusable

MEMORY = 4_096
"""Transitions that are remembered, about: the hidden states of older ones were another policy's."""
RIDGE = 1.0
"""For hidden numbers of standard deviation 1."""
LEAST_SPREAD = 1e-6
"""Of the largest: below it a number is taken for constant."""
READ_AT_ONCE = 256
"""Prompts of one forward."""


class ShapingCritic:
    """Expects what guidance pays from a state on.

    Args:
        policy: Whose hidden states it reads.
        encoder: Turns prompts and phrases into the ids that the service scored.
        gamma: Discount per step.
        gae_lambda: Decay of generalized advantage estimation.

    Attributes:
        explained_variance: Of the last rollout's returns, as they were expected; nan before the first and where
            nothing was paid.
    """

    def __init__(self, policy: Policy, encoder: TextEncoder, *, gamma: float, gae_lambda: float) -> None:
        self._policy, self._encoder = policy, encoder
        self._gamma, self._gae_lambda = gamma, gae_lambda
        size = policy.value_head.in_features + 1  # the last one is the constant's
        self._squares, self._products, self._weights = np.zeros((size, size)), np.zeros(size), np.zeros(size)
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
        self.explained_variance = explained_variance(values, returns)
        self._learn(states[: len(taken)], returns)
        return advantages

    def state(self) -> AlgorithmState:
        """Returns what `restore` needs to go on exactly."""
        numbers = {"squares": self._squares, "products": self._products, "weights": self._weights}
        return AlgorithmState({f"shaping/{name}": torch.from_numpy(each.copy()) for name, each in numbers.items()}, {})

    def restore(self, state: AlgorithmState) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointUnusable: It holds no critic of shaping, or that of a model of another width.
        """
        found = [state.tensors.get(f"shaping/{name}") for name in ("squares", "products", "weights")]
        own = self._squares, self._products, self._weights
        for mine, kept in zip(own, found, strict=True):
            if kept is None or tuple(kept.shape) != mine.shape:
                raise CheckpointUnusable("the checkpoint has no whole critic of what guidance pays")
            mine[...] = kept.numpy()

    def _learn(self, states: Floats, returns: Floats) -> None:
        """Fits what is expected to (B, H + 1) states and (B,) returns, and to what is left of those before."""
        left = max(0.0, 1 - len(states) / MEMORY)
        self._squares[...] = left * self._squares + states.T @ states
        self._products[...] = left * self._products + states.T @ returns
        self._weights[...] = _fitted(self._squares, self._products)

    @torch.no_grad()
    def _states(self, seen: list[SeenState]) -> Floats:
        """Returns (B, H + 1) hidden states under the policy's present weights, and a constant."""
        prompts = self._encoder.scored(
            [prompt for prompt, _ in seen], [self._policy.candidates(self._encoder, phrases) for _, phrases in seen]
        )
        distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        asked = list(distinct)
        parts = [
            score(self._policy, asked[i : i + READ_AT_ONCE], only_log_probs=True).states
            for i in range(0, len(asked), READ_AT_ONCE)
        ]
        hidden = torch.cat(parts).double().cpu().numpy()[[distinct[prompt] for prompt in prompts]]
        return np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)


def _fitted(squares: Floats, products: Floats) -> Floats:
    """Returns (H + 1,) weights, the constant's last, from the sums over transitions of x x^T and x G, x = (h, 1)."""
    count = squares[-1, -1]
    mean, mean_return = squares[:-1, -1] / count, products[-1] / count
    covariance = squares[:-1, :-1] / count - np.outer(mean, mean)
    spread = np.sqrt(np.diag(covariance).clip(0))
    spread = np.where(spread > LEAST_SPREAD * spread.max(), spread, np.inf)  # what never changes tells nothing
    correlation = covariance / np.outer(spread, spread)
    shared = (products[:-1] / count - mean * mean_return) / spread
    weights = np.linalg.solve(correlation + RIDGE * np.eye(len(mean)), shared) / spread
    return np.append(weights, mean_return - weights @ mean)
