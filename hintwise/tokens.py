"""Prompts and candidate phrases -> token batches.

Ids are concatenated, never re-tokenized: a prompt keeps its ids whatever follows it, so the
service and the trainer score the same sequences.

The last token of a phrase is predicted, never read, so " push left" and " push right" both
read `prompt + [push]` and share one row; a phrase whose reading is the beginning of another's
shares that row too. Where every action is decided by one distinct token, one row holds all:

    row                              positions whose logits are needed
    p1 p2 p3 p4 push                 p4 -> push     push -> left | right
              └ value is read here
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hintwise.bounded_cache import BoundedCache
from hintwise.errors import InvalidRequest
from hintwise.prompts import continuation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PhraseSet:
    """Candidate phrases as token ids, and the fewest rows in which all of them can be read.

    Compared by identity: `TextEncoder.phrases` returns one object per list of actions while it remembers it.
    """

    token_ids: tuple[TokenIds, ...]
    rows: tuple[TokenIds, ...]
    """What follows the prompt in each row."""
    row_of: tuple[int, ...]
    """The row each phrase is read in."""
    longest_row: int
    """Tokens after the prompt in the longest row."""

    @property
    def num_rows(self) -> int:
        return len(self.rows)

    @property
    def num_actions(self) -> int:
        return len(self.token_ids)

    @cached_property
    def layout(self) -> _Layout:
        """Where the tokens stand in a batch."""
        return _Layout.of(self)

    @classmethod
    def of(cls, phrases: Sequence[TokenIds]) -> PhraseSet:
        """Returns the plan for phrases of at least one token each."""
        readings = sorted({phrase[:-1] for phrase in phrases}, key=len, reverse=True)
        rows: list[TokenIds] = []
        for reading in readings:  # longest first, so that a beginning finds its row
            if not any(row[: len(reading)] == reading for row in rows):
                rows.append(reading)
        row_of = [next(r for r, row in enumerate(rows) if row[: len(p) - 1] == p[:-1]) for p in phrases]
        return cls(tuple(phrases), tuple(rows), tuple(row_of), max(map(len, rows)))


class TextEncoder:
    """Encodes prompts and phrases with one tokenizer, remembering what it has seen.

    Args:
        tokenizer: Any transformers tokenizer.
        max_tokens: Positions of the model; a longer sequence is refused, never cut.
        max_cached_tokens: Tokens of prompts that are kept, some 40 bytes each; of phrases half as many.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, max_cached_tokens: int = 2_000_000
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._tokenize = _tokenize_with(tokenizer)
        self._start = tuple(tokenizer.encode("")) if tokenizer.bos_token_id is not None else ()
        if self._start != (tokenizer.bos_token_id,):
            self._start = ()  # no model here wants anything but a start token in front
        longest = max((len(token.encode()) for token in tokenizer.get_vocab()), default=1)
        self._max_bytes = max_tokens * longest
        self._prompts: BoundedCache[str, TokenIds] = BoundedCache(max_cached_tokens)
        self._phrase_sets: BoundedCache[tuple[str, ...], PhraseSet] = BoundedCache(max_cached_tokens // 2)

    def encode(self, text: str) -> TokenIds:
        """Returns the ids of a prompt, with the model's start token where it has one.

        Raises:
            InvalidRequest: The text cannot fit the model's positions; the message has both counts.
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[TokenIds]:
        """Returns the ids of each prompt; new ones are tokenized in one call, without holding Python's lock.

        Raises:
            InvalidRequest: As `check_length` does.
        """
        found = {text: self._prompts.get(text) for text in texts}
        new = [text for text, ids in found.items() if ids is None]
        for text in new:
            self.check_length(text)
        for text, tokens in zip(new, self._tokenize(new) if new else (), strict=True):
            encoded = self._start + tuple(tokens)
            found[text] = self._prompts.keep(text, encoded, len(encoded))
        return [ids for text in texts if (ids := found[text]) is not None]

    def phrases(self, phrases: tuple[str, ...]) -> PhraseSet:
        """Returns the phrases that may follow a prompt, as token ids."""
        known = self._phrase_sets.get(phrases)
        if known is not None:
            return known
        made = PhraseSet.of([tuple(ids) for ids in self._tokenize(list(map(continuation, phrases)))])
        num_padded_tokens = made.num_actions * (made.longest_row + 1)  # its layout is padded
        return self._phrase_sets.keep(phrases, made, num_padded_tokens)

    def check_length(self, text: str) -> None:
        """Raises `InvalidRequest` when a text is too long for the model, whatever its tokens.

        A token spells a bounded number of bytes, so megabytes are refused without tokenizing them.
        """
        if len(text) > self._max_bytes:
            at_least = -(-len(text) * self.max_tokens // self._max_bytes)
            raise InvalidRequest(f"at least {at_least} tokens, but the model reads at most {self.max_tokens}")

    def check_fits(self, num_prompt_tokens: int, num_more: int) -> None:
        """Raises `InvalidRequest` unless a prompt and what follows it fit the model's positions."""
        if num_prompt_tokens + num_more > self.max_tokens:
            raise InvalidRequest(
                f"{num_prompt_tokens} prompt tokens and {num_more} to follow, "
                f"but the model reads at most {self.max_tokens}"
            )


@dataclass(frozen=True)
class PhraseBatch:
    """B prompts with their candidate phrases, laid out in R right-padded rows of T tokens.

    Padding stands on the right, so causal attention never sees it and position t is column t:
    neither a mask nor position ids can go wrong. Positions are flat: row * T + column.
    """

    input_ids: Tensor  # (R, T) int64; padding holds 0, which no real position reads
    value_positions: Tensor  # (B,) last prompt token
    score_positions: Tensor  # (M,) positions whose next token is scored
    token_scores: Tensor  # (B, A, J) index into score_positions of each phrase token
    token_ids: Tensor  # (B, A, J) phrase tokens
    token_mask: Tensor  # (B, A, J) bool; False where a phrase is shorter than J
    action_mask: Tensor  # (B, A) bool; False where an item has fewer than A actions

    def to(self, device: torch.device | str) -> PhraseBatch:
        """Returns the batch on `device`."""
        if self.input_ids.device == torch.device(device):
            return self
        return PhraseBatch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def collate(prompts: Sequence[TokenIds], phrase_sets: Sequence[PhraseSet]) -> PhraseBatch:
    """Returns B prompts, each with its own candidate phrases, as one batch.

    Args:
        prompts: (B,) ids of each prompt, at least one.
        phrase_sets: (B,) candidates of each prompt; repeats are free.
    """
    layouts = {phrase_set: phrase_set.layout for phrase_set in set(phrase_sets)}
    items = [layouts[phrase_set] for phrase_set in phrase_sets]
    lengths = np.array([len(prompt) for prompt in prompts])  # (B,)
    first_row = _starts([layout.num_rows for layout in items])  # (B,)
    first_score = _starts([len(layout.score_columns) for layout in items])  # (B,)
    input_ids = _fill_rows(prompts, phrase_sets)
    columns = input_ids.shape[1]

    num_actions = max(layout.token_ids.shape[0] for layout in layouts.values())
    num_tokens = max(layout.token_ids.shape[1] for layout in layouts.values())
    token_scores, token_ids = np.zeros((2, len(prompts), num_actions, num_tokens), dtype=np.int64)
    token_mask = np.zeros((len(prompts), num_actions, num_tokens), dtype=bool)
    score_positions = np.empty(sum(len(layout.score_columns) for layout in items), dtype=np.int64)
    for layout in layouts.values():  # one pass a distinct list of actions, not one an item
        alike = [i for i, item in enumerate(items) if item is layout] if len(layouts) > 1 else range(len(items))
        chosen = np.array(alike)
        a, j = layout.token_ids.shape
        token_ids[chosen, :a, :j] = layout.token_ids
        token_mask[chosen, :a, :j] = layout.token_mask
        token_scores[chosen, :a, :j] = first_score[chosen, None, None] + layout.token_scores
        places = first_score[chosen, None] + np.arange(len(layout.score_columns))
        rows = first_row[chosen, None] + layout.score_rows
        score_positions[places] = rows * columns + lengths[chosen, None] - 1 + layout.score_columns
    return PhraseBatch(
        input_ids=torch.from_numpy(input_ids),
        value_positions=torch.from_numpy(first_row * columns + lengths - 1),
        score_positions=torch.from_numpy(score_positions),
        token_scores=torch.from_numpy(token_scores),
        token_ids=torch.from_numpy(token_ids),
        token_mask=torch.from_numpy(token_mask),
        action_mask=torch.from_numpy(token_mask[:, :, 0]),
    )


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns the hex digest of everything that decides a tokenizer's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenize_with(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[list[int]]]:
    """Returns what turns texts into ids without special tokens: the Rust tokenizer itself where there is one.

    transformers' wrapper around it costs more than the tokenizer does. A call for many texts lets other
    Python threads run meanwhile; a call for one does not, and the model's thread would have to wait.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    backend.no_truncation()  # a tokenizer file may ask for either
    backend.no_padding()
    return lambda texts: [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the tokens of one phrase set stand, relative to its item's first row and prompt end."""

    num_rows: int
    score_rows: np.ndarray  # (S,) row of each scored position
    score_columns: np.ndarray  # (S,) columns after the last prompt token
    token_scores: np.ndarray  # (A, J) which scored position predicts the token
    token_ids: np.ndarray  # (A, J)
    token_mask: np.ndarray  # (A, J) bool

    @classmethod
    def of(cls, phrase_set: PhraseSet) -> _Layout:
        shape = len(phrase_set.token_ids), max(map(len, phrase_set.token_ids))
        token_scores, token_ids = np.zeros((2, *shape), dtype=np.int64)
        token_mask = np.zeros(shape, dtype=bool)
        scored: dict[TokenIds, int] = {}  # one entry per distinct reading: a common first token is scored once
        place: list[tuple[int, int]] = []
        for a, phrase in enumerate(phrase_set.token_ids):
            for j, token in enumerate(phrase):
                if phrase[:j] not in scored:
                    scored[phrase[:j]] = len(place)
                    place.append((phrase_set.row_of[a], j))
                token_scores[a, j] = scored[phrase[:j]]
                token_ids[a, j] = token
                token_mask[a, j] = True
        rows, columns = np.array(place).T
        return cls(len(phrase_set.rows), rows, columns, token_scores, token_ids, token_mask)


def _starts(counts: Sequence[int]) -> np.ndarray:
    """Returns where each item begins when items of these sizes stand one behind the other."""
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def _fill_rows(prompts: Sequence[TokenIds], phrase_sets: Sequence[PhraseSet]) -> np.ndarray:
    """Returns (R, T) ids: every prompt followed by each reading of its candidates."""
    rows = [prompt + row for prompt, phrases in zip(prompts, phrase_sets, strict=True) for row in phrases.rows]
    return right_padded(rows)[0]


def right_padded(rows: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns R rows of numbers as (R, T) int64 with zeros behind the shorter ones, and where the numbers stand."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    filled = np.arange(padded.shape[1]) < lengths[:, None]
    padded[filled] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    return padded, filled
