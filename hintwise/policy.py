"""The policy: a language model that scores actions, and a value head beside it.

    readout `phrase`, for any actions
        s_k      = sum_t log p(w_kt | prompt, w_k<t)         phrase k under the language model
        score_k  = beta * s_k / n_k ** alpha                 n_k tokens; alpha 0 GLAM, 1 TWOSOME
    readout `head`, for the actions it was built for
        score_k  = w_k . h + b_k                             h: last hidden state of the prompt

    pi(k)    = softmax over the legal actions, in fp32
    value    = value_scale * (w . h + b)

    with q_scale > 0 the scores are action values, and the value is the largest of them
        Q_k      = value + q_scale * (score_k - mean of the scores of the legal actions)
        pi(k)    = softmax of Q

The service and the trainer run this one module on the same token ids, which is why their
log-probabilities agree. Dropout stays off in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hintwise.action_batch import Batch, Candidates, Deciding, HeadBatch, PhraseBatch
from hintwise.action_head import HeadActions
from hintwise.language_model import LanguageModel, trunk_forward_of
from hintwise.phrases import TokenIds
from hintwise.tokens import TextEncoder
from hintwise.trunk_forward import Prefix


class PolicyOutput(NamedTuple):
    """What one forward pass says about B items of at most A actions."""

    scores: Tensor  # (B, A) fp32; -inf where an item has no such action; Q where the policy has action values
    log_probs: Tensor  # (B, A) fp32 log_softmax(scores)
    values: Tensor  # (B,) fp32, in units of return; the largest Q where the policy has action values
    states: Tensor  # (B, H) fp32 or more, the last hidden state of each prompt, which the values are read from


class Policy(nn.Module):
    """Scores (B, A) and values (B,) from a causal language model.

    Args:
        language_model: The trunk; its weights become the policy's own.
        alpha: Exponent of the phrase length in tokens; 0 sums, 1 averages.
        beta: Inverse temperature of the phrase scores.
        head_actions: Builds the readout `head` for this list; None is the readout `phrase`.

    Attributes:
        head_actions: The list that a head answers for; None where phrases are scored.
        architecture: What must agree for weights to fit: the trunk's, and the head's list.

    Source: alpha 0: Carta et al. 2023, GLAM, eq. 1; alpha 1: Tan et al. 2024, TWOSOME, eq. 4; action values: Wang et
        al. 2016, Dueling network architectures, eq. 9.
    """

    alpha: Tensor
    beta: Tensor
    value_scale: Tensor
    q_scale: Tensor

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        alpha: float = 0.0,
        beta: float = 1.0,
        head_actions: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = language_model.model
        self._trunk_forward = language_model.trunk_forward
        self.value_head = _zero_linear(language_model.width, 1)
        self.head_actions = None if head_actions is None else HeadActions(head_actions)
        self.architecture = language_model.architecture
        # Buffers, so that they travel with the weights: a policy means nothing without them.
        if self.head_actions is None:
            self.register_buffer("alpha", torch.tensor(alpha))
            self.register_buffer("beta", torch.tensor(beta))
        else:
            self.action_head = _zero_linear(language_model.width, len(self.head_actions.actions))
            self.architecture += f" {self.head_actions.identity}"
        self.register_buffer("value_scale", torch.tensor(1.0))
        self.register_buffer("q_scale", torch.tensor(0.0))
        self.to(language_model.device)
        self.eval()

    @property
    def readout(self) -> Literal["phrase", "head"]:
        """How actions are read from the model."""
        return "phrase" if self.head_actions is None else "head"

    @property
    def inverse_temperature(self) -> float:
        """What log-probabilities of the model are multiplied with, or a head's outputs."""
        scale = self.q_scale.item() if self.has_action_values else 1.0
        return scale * (self.beta.item() if self.head_actions is None else 1.0)

    @property
    def has_action_values(self) -> bool:
        """Whether the scores are action values rather than log-probabilities."""
        return self.q_scale.item() > 0

    def candidates(self, encoder: TextEncoder, actions: tuple[str, ...]) -> Candidates:
        """Returns actions as this policy's readout takes them.

        Raises:
            InvalidRequest: The head was not built for one of them; the offence names `actions`.
        """
        return encoder.phrases(actions) if self.head_actions is None else self.head_actions.columns(actions)

    @property
    def device(self) -> torch.device:
        return self.value_scale.device

    @property
    def takes_prefix(self) -> bool:
        """Whether a batch may leave out what all its prompts begin with."""
        return self._trunk_forward.takes_prefix

    @property
    def max_forward_tokens(self) -> int | None:
        """Padded tokens above which several forwards are faster than one; None where none are."""
        return self._trunk_forward.max_forward_tokens

    def reread_trunk(self) -> None:
        """Has the forward look at the trunk's modules again, after some of them were replaced."""
        self._trunk_forward = trunk_forward_of(self.trunk)

    def encode_prefix(self, prefix: TokenIds) -> Prefix:
        """Returns what `forward` needs of tokens that a batch leaves out; it holds for the present weights alone."""
        return self._trunk_forward.encode_prefix(torch.tensor(prefix, device=self.device))

    def forward(self, batch: Batch, prefix: Prefix | None = None, *, only_log_probs: bool = False) -> PolicyOutput:
        """Returns scores, log-probabilities and values of a batch on the policy's device.

        Args:
            batch: Made of what `candidates` returned.
            prefix: Of the tokens that the batch leaves out; by default they are encoded here.
            only_log_probs: Scores may then be off by one number per item. Where one token decides between
                the phrases, that spares the product with the rest of the vocabulary.
        """
        if prefix is None and batch.rows.prefix_length:
            prefix = self._trunk_forward.encode_prefix(batch.rows.prefix_ids)
        hidden = self._trunk_forward.hidden_states(batch.rows, prefix)  # (R, K, H)
        ends = _at_least_fp32(hidden[:, 0])  # (R, H) of the last prompt tokens
        if isinstance(batch, PhraseBatch) and batch.first_rows is not None:
            ends = ends.index_select(0, batch.first_rows)  # (B, H)
        if isinstance(batch, HeadBatch):
            scores = self.action_head(ends).gather(1, batch.columns)
        elif only_log_probs and batch.deciding is not None:
            scores = self._deciding_scores(hidden.flatten(0, 1), batch.deciding)
        else:
            scores = self._phrase_scores(hidden.flatten(0, 1), batch)
        scores = scores.masked_fill(~batch.action_mask, -torch.inf)
        values = self.value_head(ends).squeeze(-1) * self.value_scale
        if self.has_action_values:
            return self._action_values(scores, values, ends, batch.action_mask)
        return PolicyOutput(scores, torch.log_softmax(scores, dim=-1), values, ends)

    def _action_values(self, scores: Tensor, values: Tensor, ends: Tensor, action_mask: Tensor) -> PolicyOutput:
        """Returns Q from scores (B, A) and values (B,); what all scores of an item have in common falls out."""
        legal = scores.masked_fill(~action_mask, 0.0)
        mean = legal.sum(-1, keepdim=True) / action_mask.sum(-1, keepdim=True)
        advantages = (self.q_scale * (legal - mean)).masked_fill(~action_mask, -torch.inf)
        q = values.unsqueeze(-1) + advantages
        # Softmax of the advantages is that of Q, without the rounding of a large value.
        return PolicyOutput(q, torch.log_softmax(advantages, dim=-1), q.amax(-1), ends)

    def _phrase_scores(self, hidden: Tensor, batch: PhraseBatch) -> Tensor:
        """Returns beta * s_k / n_k ** alpha, shape (B, A), from the states of all places read, (R * K, H)."""
        scored = hidden if batch.scored_places is None else hidden.index_select(0, batch.scored_places)
        log_probs = _at_least_fp32(self.trunk.get_output_embeddings()(scored)).log_softmax(-1)  # (M, V)
        token_log_probs = log_probs[batch.token_places, batch.token_ids]  # (B, A, J)
        phrase_log_probs = (token_log_probs * batch.token_mask).sum(-1)  # (B, A)
        num_tokens = batch.token_mask.sum(-1).clamp(min=1)
        scores: Tensor = self.beta * phrase_log_probs / num_tokens**self.alpha
        return scores

    def _deciding_scores(self, hidden: Tensor, deciding: Deciding) -> Tensor:
        """Returns the scores (B, A) less what the phrases of an item have in common.

        Up to the deciding token all of them have the same log-probability, and there the same normaliser.
        """
        head = self.trunk.get_output_embeddings()
        rows = functional.embedding(deciding.token_ids, head.weight)  # (B, A, H)
        logits = _at_least_fp32((rows @ hidden.index_select(0, deciding.places).unsqueeze(-1)).squeeze(-1))
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[deciding.token_ids]
        scores: Tensor = self.beta * logits / deciding.num_tokens**self.alpha
        return scores


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _zero_linear(width: int, num_outputs: int) -> nn.Linear:
    """Returns a layer that answers 0: an untrained critic expects nothing, an untrained head prefers nothing.

    Its gradient is not zero, so it learns from the first step on; and the weights of version 1
    follow from the model alone, without a seed.
    """
    layer = nn.Linear(width, num_outputs, dtype=torch.float32)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
