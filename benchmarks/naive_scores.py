"""Scores of actions as one writes them in an afternoon, with transformers alone.

Every candidate is read behind its own copy of the prompt, and logits are computed everywhere:

    p1 p2 p3 p4 push left         one row for each prompt and candidate, padded on the right,
    p1 p2 p3 p4 push right        the attention mask from the tokenizer
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hintwise.model_names import EMBEDDED_DIR


class Rows(NamedTuple):
    """B * A sequences of at most T tokens."""

    input_ids: Tensor  # (B * A, T)
    attention_mask: Tensor  # (B * A, T)
    num_candidate_tokens: Tensor  # (B * A,)

    def part(self, start: int, stop: int) -> Rows:
        return Rows(*(tensor[start:stop] for tensor in self))


class NaiveScorer:
    """Log-probabilities of actions from a causal language model, without any of what the engine does.

    Args:
        source: `embedded`, a directory or a hub id.
    """

    def __init__(self, source: str) -> None:
        directory = EMBEDDED_DIR if source == "embedded" else Path(source)
        found = str(directory if directory.is_dir() else source)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(found, padding_side="right")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model: Any = AutoModelForCausalLM.from_pretrained(found, dtype=torch.float32).eval()

    def encode(self, prompts: Sequence[str], actions: Sequence[str]) -> Rows:
        """Returns a row for each prompt and action, in that order."""
        texts = [f"{prompt} {action}" for prompt in prompts for action in actions]
        encoded = self._tokenizer(texts, padding=True, return_tensors="pt")
        lengths = torch.tensor([len(self._tokenizer.encode(f" {action}")) for action in actions])
        return Rows(encoded["input_ids"], encoded["attention_mask"], lengths.repeat(len(prompts)))

    @torch.inference_mode()
    def scores(self, rows: Rows) -> Tensor:
        """Returns the log-probability of each row's candidate given its prompt, shape (R,)."""
        logits = self._model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False).logits
        log_probs = torch.log_softmax(logits[:, :-1], dim=-1)  # (R, T - 1, V); column t predicts token t + 1
        of_tokens = log_probs.gather(-1, rows.input_ids[:, 1:, None]).squeeze(-1)  # (R, T - 1)
        ends = rows.attention_mask.sum(-1, keepdim=True) - 1  # (R, 1)
        columns = torch.arange(of_tokens.shape[1])
        of_candidate = (columns < ends) & (columns >= ends - rows.num_candidate_tokens[:, None])
        return (of_tokens * of_candidate).sum(-1)

    def scores_in_parts(self, rows: Rows, part: int) -> Tensor:
        """Returns `scores`, with at most `part` rows in one forward pass."""
        starts = range(0, len(rows.input_ids), part)
        return torch.cat([self.scores(rows.part(start, start + part)) for start in starts])

    def log_probs(self, prompts: Sequence[str], actions: Sequence[str], *, per_candidate: bool = False) -> Tensor:
        """Returns the log-probability of each action over the actions of its prompt, shape (B, A).

        Args:
            prompts: B texts.
            actions: A texts.
            per_candidate: One forward pass for each prompt and candidate instead of one for all.
        """
        if per_candidate:
            each = [self.scores(self.encode([prompt], [action])) for prompt in prompts for action in actions]
            scores = torch.cat(each)
        else:
            scores = self.scores(self.encode(prompts, actions))
        return torch.log_softmax(scores.view(len(prompts), len(actions)), dim=-1)
