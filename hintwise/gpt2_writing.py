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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from hintwise.gpt2_forward import Behind, GPT2Forward, added_to_scores
from hintwise.token_rows import TokenRows

ROOM_TOKENS = 16
"""Columns that are made at once: to make more is to copy what is remembered."""
MIN_SHARED_TOKENS = 32
"""Tokens of rows that a common beginning must save: reading it is a forward of its own."""
MIN_PADDING_SAVED = 64
"""Padded tokens that a further forward must save."""


class LayerMemory:
    """Keys and values of one layer, each (R, heads, columns and room for more, width of a head)."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def put(self, rows: slice, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes columns from `start` on; returns the keys and values of `rows` up to the last of them."""
        stop = start + key.shape[-2]
        self.keys[rows, :, start:stop], self.values[rows, :, start:stop] = key, value
        return self.keys[rows, :, :stop], self.values[rows, :, :stop]

    def select(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)

    def make_room(self) -> None:
        self.keys, self.values = (functional.pad(each, (0, 0, 0, ROOM_TOKENS)) for each in (self.keys, self.values))


class RowMemory:
    """What is remembered of R rows.

    Args:
        lengths: (R,) tokens of each prompt.
        layers: With room for the longest.
    """

    def __init__(self, lengths: Tensor, layers: Sequence[LayerMemory]) -> None:
        self.layers = layers
        self._lengths = lengths
        self._num_prompt_columns = self._num_columns = int(lengths.max())

    def reorder_cache(self, rows: Tensor) -> None:
        """Goes on with `rows`, as transformers' caches do."""
        self._lengths = self._lengths[rows]
        for layer in self.layers:
            layer.select(rows)

    def add_column(self) -> None:
        """Counts one column more, and makes room for it."""
        self._num_columns += 1
        if self._num_columns > self.layers[0].keys.shape[2]:
            for layer in self.layers:
                layer.make_room()

    def put(self, rows: slice, start: int, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes columns of layer `number`; returns the keys and values of all up to them."""
        return self.layers[number].put(rows, start, key, value)

    @property
    def put_last(self) -> Behind:
        """Writes the last column of every row."""
        return partial(self.put, slice(None), self._num_columns - 1)

    def unseen(self, dtype: torch.dtype) -> Tensor:
        """Returns what attention from the last column adds to its scores, (R, 1, 1, columns)."""
        columns = torch.arange(self._num_columns, device=self._lengths.device)
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
            memory.add_column()
            hidden = self._embed(input_ids, position_ids)
            unseen, last = memory.unseen(hidden.dtype), torch.zeros_like(input_ids)
            hidden = self._through(hidden, last, memory.put_last, unseen, unseen)
        return Read(self._head(hidden), memory)

    def _begin(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, RowMemory]:
        """Returns the hidden states (R, 1, H) at the ends of prompts that are padded on the left, and their memory."""
        num_columns = input_ids.shape[1]
        places = torch.arange(num_columns, device=input_ids.device) + (num_columns - lengths)[:, None]
        ids = input_ids.gather(1, places % num_columns)  # the padding stands on the right now
        num_shared = _num_shared(ids, lengths)
        prefix = self.encode_prefix(ids[0, :num_shared]) if num_shared else None
        memory = RowMemory(lengths, self._layers_with_room(ids, int(lengths.min())))
        if prefix:
            for number, pair in enumerate(prefix.keys_and_values):
                memory.put(slice(None), 0, number, *pair)
        ends = lengths - num_shared
        hidden = []
        for rows in _runs(ends.tolist(), self.max_forward_tokens):
            own = ids[rows, num_shared : num_shared + int(ends[rows].max())]
            part = TokenRows(ids[0, :num_shared], own, ends[rows, None] - 1, branches=None)
            hidden.append(self.hidden_states_behind(part, partial(memory.put, rows, num_shared)))
        return torch.cat(hidden), memory

    def _layers_with_room(self, ids: Tensor, shortest: int) -> list[LayerMemory]:
        width = self._token_embedding.shape[1] // self._num_heads
        shape = len(ids), self._num_heads, ids.shape[1] + ROOM_TOKENS, width
        columns = [self._token_embedding.new_empty(shape) for _ in range(2 * len(self._layers))]
        for each in columns:  # what stands in a gap must be a number: nothing times what is none would be none
            each[:, :, shortest : ids.shape[1]] = 0
        return list(map(LayerMemory, columns[::2], columns[1::2]))


def _runs(lengths: Sequence[int], max_tokens: int | None) -> Iterator[slice]:
    """Yields neighbours that share a forward; with the longest rows first, rows of similar length."""
    start = longest = 0
    for row, length in enumerate(lengths):
        spared = (longest - length) * (len(lengths) - row)
        full = max_tokens is not None and (row - start + 1) * max(longest, length) > max_tokens
        if row > start and (spared >= MIN_PADDING_SAVED or full):
            yield slice(start, row)
            start, longest = row, 0
        longest = max(longest, length)
    yield slice(start, len(lengths))


def _num_shared(ids: Tensor, lengths: Tensor) -> int:
    """Returns how many tokens all rows begin with, of those that are worth it; one is each row's own at least."""
    alike = int((ids == ids[0]).all(0).long().cumprod(0).sum())
    shared = min(alike, int(lengths.min()) - 1)
    return shared if shared * (len(ids) - 1) >= MIN_SHARED_TOKENS else 0
