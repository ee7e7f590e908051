"""The forward passes. Runs on the inference thread alone; nothing else touches a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hintwise import weights
from hintwise.action_head import Candidates, ScoredPrompt, collate_candidates
from hintwise.errors import InferenceFailed
from hintwise.language_model import LanguageModel
from hintwise.policy import Policy
from hintwise.tokens import TextEncoder, TokenIds
from hintwise.weights import StateDict
from service.action_draw import Choice, draw_actions

Floats = NDArray[np.float32]


class ActionQuestion(NamedTuple):
    """A prompt whose action is to be chosen."""

    prompt: TokenIds
    candidates: Candidates
    choice: Choice

    @property
    def num_rows(self) -> int:
        return self.candidates.num_rows

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + self.candidates.longest_row


Question = ScoredPrompt | ActionQuestion


class Scores(NamedTuple):
    """What a model says about one prompt with A candidate actions."""

    scores: list[float]  # (A,)
    log_probs: list[float]  # (A,)
    value: float
    policy_version: int


class Decision(NamedTuple):
    """The action chosen for one prompt, and why."""

    action: int  # index into the candidate actions
    log_prob: float  # under the distribution that chose it
    scores: Scores


class PolicyRunner:
    """Scores actions with one policy, whose weights can be swapped between two batches.

    Args:
        language_model: The trunk. The policy takes its weights over.
        alpha: Exponent of the phrase length.
        beta: Inverse temperature of the phrase scores.
        head_actions: The list that a head is built for; None scores phrases.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        alpha: float = 0.0,
        beta: float = 1.0,
        head_actions: Sequence[str] | None = None,
    ) -> None:
        self.language_model = language_model
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self.policy = Policy(language_model, alpha=alpha, beta=beta, head_actions=head_actions)
        self.policy_version = 0

    def candidates(self, actions: tuple[str, ...]) -> Candidates:
        """Returns actions as the policy takes them.

        Raises:
            InvalidRequest: The policy's head was not built for one of them; the offence names `actions`.
        """
        return self.policy.candidates(self.encoder, actions)

    def swap(self, state: StateDict, commit: Callable[[], int]) -> None:
        """Serves checked weights from the next batch on.

        Args:
            state: The new weights; holds the old ones afterwards.
            commit: Called with the new weights in place, before any batch meets them. Returns their
                version; where it raises, the old weights are put back and serve on.
        """
        weights.exchange(self.policy, state)
        try:
            self.policy_version = commit()
        except BaseException:
            weights.exchange(self.policy, state)
            raise

    def score(self, items: Sequence[ScoredPrompt]) -> list[Scores]:
        """Returns the scores of each item, in order.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        return self._listed(items, *self._forward(items))

    def decide(self, items: Sequence[ActionQuestion]) -> list[Decision]:
        """Returns one action per item, in order.

        The draw happens here, and not where the answers are written: one draw then serves all requests of a
        batch, and many small steps on the event loop's thread would each take Python's lock from this one.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        scores, log_probs, values = self._forward(items)
        num_actions = np.array([item.candidates.num_actions for item in items])
        draw = draw_actions(scores, num_actions, [item.choice for item in items])
        listed = self._listed(items, scores, log_probs, values)
        return list(map(Decision, draw.actions.tolist(), draw.log_probs.tolist(), listed))

    @torch.inference_mode()
    def _forward(self, items: Sequence[Question]) -> tuple[Floats, Floats, Floats]:
        """Returns scores (B, A), log-probabilities (B, A) and values (B,)."""
        batch = collate_candidates([item.prompt for item in items], [item.candidates for item in items])
        output = self.policy(batch.to(self.language_model.device))
        scores, log_probs, values = (tensor.cpu().numpy() for tensor in output)
        if not (np.isfinite(values).all() and np.isfinite(scores[batch.action_mask.numpy()]).all()):
            raise InferenceFailed("the model's scores are not finite; serve other weights")
        return scores, log_probs, values

    def _listed(self, items: Sequence[Question], scores: Floats, log_probs: Floats, values: Floats) -> list[Scores]:
        counts = [item.candidates.num_actions for item in items]
        rows = zip(counts, scores.tolist(), log_probs.tolist(), values.tolist(), strict=True)
        return [Scores(row[:count], logs[:count], value, self.policy_version) for count, row, logs, value in rows]
