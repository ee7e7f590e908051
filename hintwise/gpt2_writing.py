"""GPT-2 that writes: a forward pass that remembers its rows, and reads one token more of each at the next.

    prompts   a b c d e        memory   a b | c d e           first call: what all begin with is read once
              a b x                     a b | x . .
    step 1    f                         a b | c d e f         later calls: one column more; a gap (.) is never seen
              y                         a b | x . . y

Called as transformers' models are, so that whoever writes with it need not know: prompts padded on
the left, then a column at a time. It does less: no arithmetic for padding on the left nor for logits that
nobody reads, the common beginning of the prompts once, and new keys and values go into room that is
there already, where transformers copies the whole memory at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from hintwise.gpt2_forward import GPT2Forward, added_to_scores
from hintwise.token_rows import TokenRows
from hintwise.trunk_forward import Prefix

ROOM_TOKENS = 16
"""Columns that are made at once: to make more is to copy what is remembered."""
MIN_SHARED_TOKENS = 32
"""Tokens of rows that a common beginning must save: reading it is a forward of its own."""


class LayerMemory:
    """Keys and values of one layer, each (R, heads, columns and room for more, width of a head)."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def put(self, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes columns from `start` on; returns the keys and values of all up to the last of them."""
        stop = start + key.shape[2]
        if stop > self.keys.shape[2]:
            self.keys, self.values = (_roomy(each, start, stop) for each in (self.keys, self.values))
        self.keys[:, :, start:stop], self.values[:, :, start:stop] = key, value
        return self.keys[:, :, :stop], self.values[:, :, :stop]


class RowMemory:
    """What is remembered of R rows.

    Args:
        lengths: (R,) tokens of each prompt.
        prefix: Of what all of them begin with.
    """

    def __init__(self, lengths: Tensor, prefix: Prefix | None) -> None:
        self.layers: list[LayerMemory] = []
        self._lengths, self._prefix = lengths, prefix
        self._num_prompt_columns = int(lengths.max())
        self._num_columns = prefix.keys_and_values[0][0].shape[1] if prefix else 0

    def reorder_cache(self, rows: Tensor) -> None:
        """Goes on with `rows`, as transformers' caches do."""
        self._lengths = self._lengths[rows]
        for layer in self.layers:
            layer.keys, layer.values = layer.keys.index_select(0, rows), layer.values.index_select(0, rows)

    def put(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Remembers new columns of a layer; returns the keys and values of all."""
        if number == len(self.layers):
            pair = self._prefix.keys_and_values[number] if self._prefix else (key[0, :, :0], value[0, :, :0])
            self.layers.append(LayerMemory(*(each.expand(len(key), -1, -1, -1) for each in pair)))
        return self.layers[number].put(self._num_columns, key, value)

    def advance(self, num_columns: int) -> None:
        """Counts columns that every layer has been given."""
        self._num_columns += num_columns

    def unseen(self, dtype: torch.dtype) -> Tensor:
        """Returns what attention from one more column adds to its scores, (R, 1, 1, columns)."""
        columns = torch.arange(self._num_columns + 1, device=self._lengths.device)
        in_gap = (columns >= self._lengths[:, None]) & (columns < self._num_prompt_columns)
        return added_to_scores(in_gap[:, None, None], dtype)


@dataclass
class Read:
    """What a call returns, as transformers names it."""

    logits: Tensor  # (R, 1, V) of the token after each row
    past_key_values: RowMemory


class GPT2Writing(GPT2Forward):
    """Reads rows, and then one token more of each in every call.

    Args:
        model: `can_run` says yes to it.
    """

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__(model)
        self._head = model.lm_head

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: RowMemory | None,
        **_: object,
    ) -> Read:
        """Returns logits behind the last tokens, and what the next call needs.

        Args:
            input_ids: (R, T) prompts padded on the left; (R, 1) in later calls.
            attention_mask: (R, T) 1 where a prompt stands; read in the first call alone.
            position_ids: (R, 1), read in later calls alone.
            past_key_values: What the call before returned.
        """
        if past_key_values is None:
            hidden, memory = self._begin(input_ids, attention_mask.sum(-1))
        else:
            memory = past_key_values
            hidden = self._embed(input_ids, position_ids)
            unseen, last = memory.unseen(hidden.dtype), torch.zeros_like(input_ids)
            hidden = self._through(hidden, last, memory.put, unseen, unseen)
            memory.advance(1)
        return Read(self._head(hidden), memory)

    def _begin(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, RowMemory]:
        """Returns the hidden states at the ends of prompts that are padded on the left, and their memory."""
        num_columns = input_ids.shape[1]
        places = torch.arange(num_columns, device=input_ids.device) + (num_columns - lengths)[:, None]
        ids = input_ids.gather(1, places % num_columns)  # the padding stands on the right now
        num_shared = _num_shared(ids, lengths)
        prefix = self.encode_prefix(ids[0, :num_shared]) if num_shared else None
        rows = TokenRows(ids[0, :num_shared], ids[:, num_shared:], (lengths - num_shared - 1)[:, None], branches=None)
        memory = RowMemory(lengths, prefix)
        hidden = self.hidden_states_behind(rows, memory.put)
        memory.advance(num_columns - num_shared)
        return hidden, memory


def _num_shared(ids: Tensor, lengths: Tensor) -> int:
    """Returns how many tokens all rows begin with, of those that are worth it; one is each row's own at least."""
    alike = int((ids == ids[0]).all(0).long().cumprod(0).sum())
    shared = min(alike, int(lengths.min()) - 1)
    return shared if shared * (len(ids) - 1) >= MIN_SHARED_TOKENS else 0


def _roomy(columns: Tensor, num_kept: int, num_needed: int) -> Tensor:
    """Returns the first columns (R, heads, columns, width of a head) with room behind them."""
    num_rows, num_heads, _, width = columns.shape
    roomy = columns.new_empty(num_rows, num_heads, num_needed + ROOM_TOKENS, width)
    roomy[:, :, :num_kept] = columns[:, :, :num_kept]
    return roomy
