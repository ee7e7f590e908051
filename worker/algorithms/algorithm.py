"""What a run asks of an algorithm: how to act, and how to learn from what came of it.

behaviour ──▶ the service acts ──▶ Rollout ──▶ update ──▶ new weights
                                                 │
                                 state, restore: what it remembers between updates
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hintwise.action_batch import ScoredPrompt
from hintwise.policy import Policy
from hintwise.schemas import ActResult
from hintwise.tokens import TextEncoder
from worker.buffers import Behaviour, Rollout


class Worth(NamedTuple):
    """What a state is worth, as an answer of the service says."""

    of: Callable[[ActResult], float]
    of_action: bool
    """Whether it is that of the action, so that a state behind a rollout needs one chosen as in it."""


class Metrics(Protocol):
    """What one update did: a dataclass of numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def shown(self) -> list[tuple[str, str]]:
        """Returns what the progress display shows of it, as names and values."""


class AlgorithmState(NamedTuple):
    """What an algorithm remembers besides weights and optimizer; empty for some."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    """As JSON holds them."""


NOTHING = AlgorithmState({}, {})
MAX_IMPORTANCE_WEIGHT = 2.0


class Algorithm(Protocol):
    """Improves a policy from rollouts. Everything it changes, it changes in `update`."""

    policy: Policy
    encoder: TextEncoder
    q_scale: float
    """What the policy is to have: 0 where its scores are log-probabilities, more where they are action values."""
    initial_value: float
    """What an untrained value head is to answer, in units of return."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of all parameters of the policy."""

    @property
    def worth(self) -> Worth | None:
        """What `Rollout.values` holds; None: nothing, and no state behind the rollout is asked about."""

    def behaviour(self, progress: float) -> Behaviour:
        """Returns how to act at a share of the run, 0 to 1."""

    def update(self, rollout: Rollout, *, learning_rate: float) -> Metrics:
        """Learns from one rollout."""

    def state(self) -> AlgorithmState:
        """Returns what `restore` needs to go on exactly, copied."""

    def restore(self, state: AlgorithmState) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointUnusable: It holds another algorithm's state.
        """


def descend(loss: Tensor, policy: Policy, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Takes one gradient step and returns the gradient's norm before clipping."""
    optimizer.zero_grad()
    loss.backward()
    return take_step(policy, optimizer, max_grad_norm)


def take_step(policy: Policy, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Takes a step along the gradient at the parameters and returns its norm before clipping."""
    norm = nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
    optimizer.step()
    return norm.item()


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the step size of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def scored_prompts(rollout: Rollout, policy: Policy, encoder: TextEncoder) -> list[ScoredPrompt]:
    """Returns the B = S * N prompts of a rollout with their legal actions, encoded."""
    return encoder.scored(rollout.prompts, [policy.candidates(encoder, phrases) for phrases in rollout.action_phrases])


def flat(array: NDArray[np.float64], device: torch.device) -> Tensor:
    """Returns (S, N) numbers as (B,) fp32."""
    return torch.from_numpy(array.reshape(-1)).to(device, torch.float32)


def importance_weights(log_probs: Tensor, acted_log_probs: Tensor, staleness: int) -> Tensor:
    """Returns a weight for each action (B,): min(pi / pi_acted, 2), or 1 where the policy that acted learns.

    Args:
        log_probs: (B,) of the actions, under the weights that learn.
        acted_log_probs: (B,) under those that chose them.
        staleness: Updates between the two.

    Source: Ionides 2008, Truncated importance sampling; a bound of 2 keeps one action from ruling a minibatch.
    """
    if not staleness:
        return torch.ones_like(log_probs)
    return (log_probs.detach() - acted_log_probs).exp().clamp(max=MAX_IMPORTANCE_WEIGHT)


def entropy(log_probs: Tensor) -> Tensor:
    """Returns the entropy (B,) of (B, A) log-probabilities; an illegal action's -inf adds 0, not NaN."""
    finite = log_probs.masked_fill(log_probs == -torch.inf, 0.0)
    return -(log_probs.exp() * finite).sum(-1)


VALUE = Worth(lambda result: result.value, of_action=False)
"""The critic's."""
ACTION_VALUE = Worth(lambda result: result.scores[result.action], of_action=True)
"""Q of the action that was chosen."""
