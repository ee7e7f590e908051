"""Prompts with candidate actions -> one batch of tensors, for either readout of the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hintwise.action_head import HeadColumns
from hintwise.phrases import PhraseSet, TokenIds
from hintwise.token_rows import TokenRows, lay_out, right_padded

Candidates: TypeAlias = PhraseSet | HeadColumns
"""The actions of one observation, as a policy's readout takes them."""


class ScoredPrompt(NamedTuple):
    """A prompt whose candidate actions want scores."""

    prompt: TokenIds
    candidates: Candidates
    num_shared_tokens: int = 0
    """Tokens at the beginning that other prompts of the same task have, too; less than the prompt has."""

    @property
    def num_rows(self) -> int:
        return self.candidates.num_rows

    @property
    def num_tokens(self) -> int:
        """Tokens of its longest row."""
        return len(self.prompt) + self.candidates.num_row_tokens


class Deciding(NamedTuple):
    """The one token by which each item's phrases differ; all that stands before it is common to them."""

    places: Tensor  # (B,) where it is predicted, as a flat row * K + k of what is read
    token_ids: Tensor  # (B, A)
    num_tokens: Tensor  # (B, 1) of the whole phrase


@dataclass(frozen=True)
class PhraseBatch:
    """B prompts with their candidate phrases, one row or several each."""

    rows: TokenRows
    first_rows: Tensor | None  # (B,) the first row of each; None where each has one
    scored_places: Tensor | None  # (M,) places read, as row * K + k, whose next token is scored; None: all of them
    token_places: Tensor  # (B, A, J) which of the M predicts each phrase token
    token_ids: Tensor  # (B, A, J) phrase tokens
    token_mask: Tensor  # (B, A, J) bool; False where a phrase is shorter than J
    action_mask: Tensor  # (B, A) bool; False where an item has fewer than A actions
    deciding: Deciding | None  # None where some item's phrases differ in more than their last token

    def to(self, device: torch.device | str) -> PhraseBatch:
        """Returns the batch on `device`."""
        if self.action_mask.device == torch.device(device):
            return self
        return PhraseBatch(
            rows=self.rows.to(device),
            first_rows=None if self.first_rows is None else self.first_rows.to(device),
            scored_places=None if self.scored_places is None else self.scored_places.to(device),
            token_places=self.token_places.to(device),
            token_ids=self.token_ids.to(device),
            token_mask=self.token_mask.to(device),
            action_mask=self.action_mask.to(device),
            deciding=None if self.deciding is None else Deciding(*(each.to(device) for each in self.deciding)),
        )


@dataclass(frozen=True)
class HeadBatch:
    """B prompts, each with the columns of the head that it may choose among."""

    rows: TokenRows
    columns: Tensor  # (B, A) int64 column of each action
    action_mask: Tensor  # (B, A) bool; False where an item has fewer than A actions

    def to(self, device: torch.device | str) -> HeadBatch:
        """Returns the batch on `device`."""
        return HeadBatch(self.rows.to(device), self.columns.to(device), self.action_mask.to(device))


Batch: TypeAlias = PhraseBatch | HeadBatch


def collate(
    prompts: Sequence[TokenIds], candidates: Sequence[PhraseSet] | Sequence[HeadColumns], *, prefix_length: int = 0
) -> Batch:
    """Returns B prompts, each with its own candidate actions, as one batch of the readout they are for.

    Args:
        prompts: (B,) ids of each prompt, at least one.
        candidates: (B,) actions of each prompt, all for one readout; repeats are free.
        prefix_length: Tokens that all prompts begin with, to be read once; less than any prompt has.
    """
    trees = [tree for each in candidates for tree in each.trees]
    repeated = prompts if len(trees) == len(prompts) else _per_row(prompts, candidates)
    rows = lay_out(repeated, trees, prefix_length=prefix_length)
    if isinstance(candidates[0], HeadColumns):  # a policy has one readout, so one of them tells
        return _with_columns(rows, cast("Sequence[HeadColumns]", candidates))
    return _with_phrases(rows, cast("Sequence[PhraseSet]", candidates))


def _per_row(prompts: Sequence[TokenIds], candidates: Sequence[Candidates]) -> list[TokenIds]:
    return [prompt for prompt, each in zip(prompts, candidates, strict=True) for _ in each.trees]


def _with_columns(rows: TokenRows, candidates: Sequence[HeadColumns]) -> HeadBatch:
    columns, mask = right_padded([each.columns for each in candidates])
    return HeadBatch(rows, columns=torch.from_numpy(columns), action_mask=torch.from_numpy(mask))


def _with_phrases(rows: TokenRows, candidates: Sequence[PhraseSet]) -> PhraseBatch:
    distinct = dict.fromkeys(candidates)
    num_actions = max(phrases.layout.token_ids.shape[0] for phrases in distinct)
    num_tokens = max(phrases.layout.token_ids.shape[1] for phrases in distinct)
    token_places, token_ids = np.zeros((2, len(candidates), num_actions, num_tokens), dtype=np.int64)
    token_mask = np.zeros((len(candidates), num_actions, num_tokens), dtype=bool)
    num_rows = np.array([phrases.num_rows for phrases in candidates])
    first_rows = np.cumsum(num_rows) - num_rows  # (B,)
    first_place, scored_places = _scored(candidates, first_rows, rows.read_columns.shape[1])
    for phrases in distinct:  # one pass a distinct list of actions, not one an item
        alike = [i for i, each in enumerate(candidates) if each is phrases] if len(distinct) > 1 else slice(None)
        layout = phrases.layout
        a, j = layout.token_ids.shape
        token_ids[alike, :a, :j] = layout.token_ids
        token_mask[alike, :a, :j] = layout.token_mask
        token_places[alike, :a, :j] = first_place[alike, None, None] + layout.read_at
    action_mask = torch.from_numpy(token_mask[:, :, 0])
    places = None if scored_places is None else torch.from_numpy(scored_places)
    return PhraseBatch(
        rows=rows,
        first_rows=torch.from_numpy(first_rows) if len(rows.input_ids) > len(candidates) else None,
        scored_places=places,
        token_places=torch.from_numpy(token_places),
        token_ids=torch.from_numpy(token_ids),
        token_mask=torch.from_numpy(token_mask),
        action_mask=action_mask,
        deciding=_deciding(token_ids, candidates, rows.read_columns.shape[1]),
    )


def _scored(
    candidates: Sequence[PhraseSet], first_rows: NDArray[np.int64], num_reads: int
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Returns where each item's scored places begin, (B,), and all of them, or None where every place is scored."""
    counts = np.array([len(tree.nodes) + 1 for phrases in candidates for tree in phrases.trees])  # (R,)
    starts = np.cumsum(counts) - counts
    everywhere = counts.min() == num_reads
    return starts[first_rows], None if everywhere else np.flatnonzero(np.arange(num_reads) < counts[:, None])


def _deciding(token_ids: NDArray[np.int64], candidates: Sequence[PhraseSet], num_reads: int) -> Deciding | None:
    if not all(phrases.one_token_decides for phrases in dict.fromkeys(candidates)):
        return None
    last = np.array([phrases.num_positions for phrases in candidates])  # a single chain, each in one row
    items = np.arange(len(candidates))
    return Deciding(
        places=torch.from_numpy(items * num_reads + last),
        token_ids=torch.from_numpy(token_ids[items, :, last]),
        num_tokens=torch.from_numpy(last[:, None] + 1),
    )
