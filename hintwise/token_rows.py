"""Prompts, each with the tree of its candidate phrases, as right-padded rows of tokens.

    prefix          rows                              read
    t1 t2 t3        p4 p5 p6  push  .     .           p6 push
                    p4 p5     push  pick  .           p5 push pick

The prefix is what all prompts of the batch begin with (the task); it is read once for all of
them. Padding stands on the right, where no real token looks: without branches a row is plain
causal text, column t at position P + t, and needs neither a mask nor position ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hintwise.phrases import TokenIds, Tree


class Branches(NamedTuple):
    """What rows with branches need beyond their tokens."""

    position_ids: Tensor  # (R, T) int64
    sees: Tensor  # (R, T, T) bool: which column sees which


@dataclass(frozen=True)
class TokenRows:
    """R rows of T tokens behind a common prefix of P tokens; K places of each row are read."""

    prefix_ids: Tensor  # (P,) int64, may be empty
    input_ids: Tensor  # (R, T) int64; padding holds 0, which no real token sees
    read_columns: Tensor  # (R, K) int64: the prompt's last token, then its nodes; shorter rows repeat their last
    branches: Branches | None  # None where every row is plain causal text

    @property
    def prefix_length(self) -> int:
        return len(self.prefix_ids)

    def to(self, device: torch.device | str) -> TokenRows:
        """Returns the rows on `device`."""
        if self.input_ids.device == torch.device(device):
            return self
        branches = Branches(*(tensor.to(device) for tensor in self.branches)) if self.branches else None
        return TokenRows(self.prefix_ids.to(device), self.input_ids.to(device), self.read_columns.to(device), branches)


def lay_out(prompts: Sequence[TokenIds], trees: Sequence[Tree], *, prefix_length: int = 0) -> TokenRows:
    """Returns one row per prompt.

    Args:
        prompts: (R,) ids of each whole prompt.
        trees: (R,) what grows from each.
        prefix_length: Tokens that all prompts begin with; less than any prompt has.
    """
    rows = [prompt[prefix_length:] + tree.nodes for prompt, tree in zip(prompts, trees, strict=True)]
    input_ids, _ = right_padded(rows)
    ends = np.array([len(prompt) for prompt in prompts]) - prefix_length - 1  # (R,) column of the prompt's last token
    lengths = np.array([len(row) for row in rows])
    reads = np.arange((lengths - ends).max())
    branching = any(tree.branches for tree in set(trees))
    return TokenRows(
        prefix_ids=torch.tensor(prompts[0][:prefix_length], dtype=torch.int64),
        input_ids=torch.from_numpy(input_ids),
        read_columns=torch.from_numpy(np.minimum(ends[:, None] + reads, lengths[:, None] - 1)),
        branches=_branches(trees, ends, input_ids.shape[1], prefix_length) if branching else None,
    )


def right_padded(rows: Sequence[TokenIds]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns R rows of numbers as (R, T) int64 with zeros behind the shorter ones, and where the numbers stand."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max()), dtype=np.int64)
    filled = np.arange(padded.shape[1]) < lengths[:, None]
    padded[filled] = np.fromiter(chain.from_iterable(rows), np.int64, lengths.sum())
    return padded, filled


def _branches(trees: Sequence[Tree], ends: NDArray[np.int64], num_columns: int, prefix_length: int) -> Branches:
    positions = np.tile(np.arange(num_columns), (len(trees), 1))
    sees = np.tile(np.tri(num_columns, dtype=bool), (len(trees), 1, 1))
    alike: dict[tuple[Tree, int], list[int]] = {}
    for row, place in enumerate(zip(trees, ends.tolist(), strict=True)):
        alike.setdefault(place, []).append(row)
    for (tree, end), found in alike.items():
        nodes = slice(end + 1, end + 1 + len(tree.nodes))
        positions[found, nodes] = end + 1 + np.array(tree.depths, dtype=np.int64)
        sees[found, nodes, nodes] = tree.ancestors
    return Branches(torch.from_numpy(positions + prefix_length), torch.from_numpy(sees))
