"""The forward passes. Runs on the inference thread alone; nothing else touches a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hintwise import weights
from hintwise.errors import InferenceFailed
from hintwise.language_model import LanguageModel
from hintwise.policy import Policy
from hintwise.tokens import PhraseSet, TextEncoder, TokenIds, collate
from hintwise.weights import StateDict


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt whose candidate phrases want scores."""

    prompt: TokenIds
    phrases: PhraseSet

    @property
    def num_rows(self) -> int:
        return len(self.phrases.rows)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + self.phrases.longest_row


class Scores(NamedTuple):
    """What a model says about one prompt with A candidate phrases."""

    scores: NDArray[np.float32]  # (A,)
    log_probs: NDArray[np.float32]  # (A,)
    value: float
    policy_version: int


class PolicyRunner:
    """Scores phrases with one policy, whose weights can be swapped between two batches.

    Args:
        language_model: The trunk. The policy takes its weights over.
        alpha: Exponent of the phrase length.
        beta: Inverse temperature of the scores.
    """

    def __init__(self, language_model: LanguageModel, *, alpha: float = 0.0, beta: float = 1.0) -> None:
        self.language_model = language_model
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self.policy = Policy(language_model, alpha=alpha, beta=beta)
        self.policy_version = 0

    def swap(self, state: StateDict, policy_version: int) -> None:
        """Serves checked weights from the next batch on."""
        weights.apply(self.policy, state)
        self.policy_version = policy_version

    @torch.inference_mode()
    def score(self, items: Sequence[ScoredPrompt]) -> list[Scores]:
        """Returns the scores of each item, in order.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        batch = collate([item.prompt for item in items], [item.phrases for item in items])
        output = self.policy(batch.to(self.language_model.device))
        scores, log_probs, values = (tensor.cpu().numpy() for tensor in output)
        counts = [len(item.phrases.token_ids) for item in items]
        if not (np.isfinite(values).all() and np.isfinite(scores[batch.action_mask.numpy()]).all()):
            raise InferenceFailed("the model's scores are not finite; serve other weights")
        return [
            Scores(scores[i, :count], log_probs[i, :count], float(values[i]), self.policy_version)
            for i, count in enumerate(counts)
        ]
