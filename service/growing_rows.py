"""Token sequences that grow at their right edge, and what the model remembers of them.

    encode          one row for each prompt                  ids, mask, key-value cache
    select [0,0,1]  rows leave, or go on more than once      all three are copied
    append          one token more in each row               mask grows; the cache, at the next forward

Sequences of different lengths are padded on the left; masks and positions come from the lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hintwise.language_model import LanguageModel
from hintwise.phrases import TokenIds


class GrowingRows:
    """A batch of sequences in the making.

    Args:
        language_model: Reads them.
        prompts: What they begin with.
    """

    def __init__(self, language_model: LanguageModel, prompts: Sequence[TokenIds]) -> None:
        self._device = language_model.device
        self._last_position = language_model.max_tokens - 1
        self._ids, self._mask = _pad_left(prompts, self._device)
        self._cache: Any = None  # whatever kind the model makes

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, model: Callable[..., Any]) -> Tensor:
        """Returns the model's logits for the next token of every row, (B, V), in fp32."""
        # A row that nobody continues grows on with the others; it must not run out of positions.
        positions = (self._mask.cumsum(-1) - 1).clamp(0, self._last_position)[:, -self._ids.shape[1] :]
        output = model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def select(self, rows: Sequence[int]) -> None:
        """Goes on with `rows`, each as often as it is named; the memory of all others is free."""
        index = torch.tensor(rows, device=self._device)
        self._ids, self._mask = self._ids[index], self._mask[index]
        # Not batch_select_indices: the layers of models with a recurrent state have this one alone.
        self._cache.reorder_cache(index)

    def append(self, tokens: Sequence[int]) -> None:
        """Adds a token to every row."""
        self._ids = torch.tensor(tokens, device=self._device).unsqueeze(1)
        self._mask = torch.cat([self._mask, torch.ones_like(self._ids)], dim=1)


def _pad_left(prompts: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, both (B, T), with every prompt at the right edge."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), mask.to(device)
