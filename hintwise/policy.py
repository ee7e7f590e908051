"""The policy: a language model that scores action phrases, and a value head beside it.

    s_k      = sum_t log p(w_kt | prompt, w_k<t)             phrase k under the language model
    score_k  = beta * s_k / n_k ** alpha                     n_k tokens; alpha 0 GLAM, 1 TWOSOME
    pi(k)    = softmax over the legal actions, in fp32
    value    = value_scale * (w . h + b)                     h: last hidden state of the prompt

The service and the trainer run this one module on the same token ids, which is why their
log-probabilities agree. Dropout stays off in both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hintwise.language_model import LanguageModel
from hintwise.tokens import PhraseBatch


class PolicyOutput(NamedTuple):
    """What one forward pass says about B items of at most A actions."""

    scores: Tensor  # (B, A) fp32; -inf where an item has no such action
    log_probs: Tensor  # (B, A) fp32 log_softmax(scores)
    values: Tensor  # (B,) fp32, in units of return


class Policy(nn.Module):
    """Scores (B, A) and values (B,) from a causal language model.

    Args:
        language_model: The trunk; its weights become the policy's own.
        alpha: Exponent of the phrase length in tokens; 0 sums, 1 averages.
        beta: Inverse temperature of the scores.

    Source: alpha 0: Carta et al. 2023, GLAM, eq. 1; alpha 1: Tan et al. 2024, TWOSOME, eq. 4.
    """

    alpha: Tensor
    beta: Tensor
    value_scale: Tensor

    def __init__(self, language_model: LanguageModel, *, alpha: float = 0.0, beta: float = 1.0) -> None:
        super().__init__()
        self.trunk = language_model.model
        self.value_head = nn.Linear(language_model.width, 1, dtype=torch.float32)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        # Buffers, so that they travel with the weights: a policy means nothing without them.
        self.register_buffer("alpha", torch.tensor(alpha))
        self.register_buffer("beta", torch.tensor(beta))
        self.register_buffer("value_scale", torch.tensor(1.0))
        self.to(language_model.device)
        self.eval()

    def forward(self, batch: PhraseBatch) -> PolicyOutput:
        """Returns scores, log-probabilities and values of a batch on the policy's device."""
        hidden = self.trunk.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # (R, T, H)
        hidden = hidden.flatten(0, 1)
        logits = self.trunk.get_output_embeddings()(hidden[batch.score_positions]).float()  # (M, V)
        scores = self._scores(logits, batch)
        values = self.value_head(hidden[batch.value_positions].float()).squeeze(-1) * self.value_scale
        return PolicyOutput(scores, torch.log_softmax(scores, dim=-1), values)

    def _scores(self, logits: Tensor, batch: PhraseBatch) -> Tensor:
        """Returns beta * s_k / n_k ** alpha, shape (B, A), from logits (M, V)."""
        token_logits = logits[batch.token_scores, batch.token_ids]  # (B, A, J)
        token_log_probs = token_logits - logits.logsumexp(-1)[batch.token_scores]
        phrase_log_probs = (token_log_probs * batch.token_mask).sum(-1)  # (B, A)
        num_tokens = batch.token_mask.sum(-1).clamp(min=1)
        scores = self.beta * phrase_log_probs / num_tokens**self.alpha
        return scores.masked_fill(~batch.action_mask, -torch.inf)
