"""Candidate phrases as token ids, and the tree in which all of them are read at once.

The last token of a phrase is predicted, never read; what is read of a phrase is its beginning.
Phrases with a common beginning share it, so the beginnings form a tree that grows from the end
of the prompt. One row of tokens holds the prompt once and every node of the tree once:

    row                                     what is read there predicts
    p1 p2 p3 p4  push  pick                 p4 -> push | pick | wait
              │   └────┼── left, right      push -> left | right
              │        └── up               pick -> up
              └ the value is read here

A node sees the prompt and the nodes above it, not the branches beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

TokenIds = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class PhraseSet:
    """Candidate phrases with the nodes of their tree; a node stands behind the one it grows from.

    Compared by identity: `TextEncoder.phrases` returns one object per list of actions while it remembers it.
    """

    token_ids: tuple[TokenIds, ...]
    nodes: TokenIds
    """Token of each node."""
    parents: tuple[int, ...]
    """The node that each grows from; -1 where it follows the prompt."""
    depths: tuple[int, ...]
    """Nodes above each."""
    read_at: dict[TokenIds, int]
    """Where each beginning of a phrase is read: 0 is the prompt's end, k + 1 is node k."""

    @classmethod
    def of(cls, phrases: Sequence[TokenIds]) -> PhraseSet:
        """Returns the tree of phrases of at least one token each."""
        read_at: dict[TokenIds, int] = {(): 0}
        parents: list[int] = []
        for phrase in phrases:
            for length in range(1, len(phrase)):
                beginning = phrase[:length]
                if beginning not in read_at:
                    parents.append(read_at[beginning[:-1]] - 1)
                    read_at[beginning] = len(parents)
        beginnings = list(read_at)[1:]
        return cls(
            token_ids=tuple(phrases),
            nodes=tuple(beginning[-1] for beginning in beginnings),
            parents=tuple(parents),
            depths=tuple(len(beginning) - 1 for beginning in beginnings),
            read_at=read_at,
        )

    @property
    def num_actions(self) -> int:
        return len(self.token_ids)

    @property
    def num_nodes(self) -> int:
        """Tokens that the tree adds to a prompt's row."""
        return len(self.nodes)

    @property
    def num_positions(self) -> int:
        """Positions that the model needs behind the prompt: the longest beginning."""
        return max(self.depths, default=-1) + 1

    @cached_property
    def branches(self) -> bool:
        """Returns whether a node must not see all that stand before it."""
        return self.parents != tuple(range(-1, self.num_nodes - 1))

    @cached_property
    def one_token_decides(self) -> bool:
        """Returns whether the phrases differ in nothing but their last token, all read at one place."""
        return len({phrase[:-1] for phrase in self.token_ids}) == 1

    @cached_property
    def ancestors(self) -> NDArray[np.bool_]:
        """Which node sees which: itself and those above it, shape (nodes, nodes)."""
        sees = np.eye(self.num_nodes, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees

    @cached_property
    def layout(self) -> Layout:
        """Where each token of each phrase is predicted."""
        return Layout.of(self)


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens of A phrases of at most J tokens, and where each is predicted."""

    read_at: NDArray[np.int64]  # (A, J) 0 is the prompt's end, k + 1 is node k
    token_ids: NDArray[np.int64]  # (A, J)
    token_mask: NDArray[np.bool_]  # (A, J) False where a phrase is shorter than J

    @classmethod
    def of(cls, phrases: PhraseSet) -> Layout:
        shape = len(phrases.token_ids), max(map(len, phrases.token_ids))
        read_at, token_ids = np.zeros((2, *shape), dtype=np.int64)
        token_mask = np.zeros(shape, dtype=bool)
        for a, phrase in enumerate(phrases.token_ids):
            token_ids[a, : len(phrase)] = phrase
            token_mask[a, : len(phrase)] = True
            read_at[a, : len(phrase)] = [phrases.read_at[phrase[:j]] for j in range(len(phrase))]
        return cls(read_at, token_ids, token_mask)
