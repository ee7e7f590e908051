"""Candidate phrases as token ids, and the trees in which all of them are read at once.

The last token of a phrase is predicted, never read; what is read of a phrase is its beginning.
Phrases with a common beginning share it, so the beginnings form a tree that grows from the end
of the prompt. One row of tokens holds the prompt once and every node of the tree once:

    row                                     what is read there predicts
    p1 p2 p3 p4  push  pick                 p4 -> push | pick | wait
              │   └────┼── left, right      push -> left | right
              │        └── up               pick -> up
              └ the value is read here

A node sees the prompt and the nodes above it, not the branches beside it. Since every place of a
row is compared with every other, a large tree costs more than the prompt read twice: many long
phrases become several trees, in rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

TokenIds = tuple[int, ...]
MAX_TREE_NODES = 256
"""Of a tree of more than one phrase."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The beginnings of some phrases; a node stands behind the one it grows from. Compared by identity."""

    nodes: TokenIds
    """Token of each node."""
    parents: tuple[int, ...]
    """The node that each grows from; -1 where it follows the prompt."""

    @cached_property
    def branches(self) -> bool:
        """Returns whether a node must not see all that stand before it."""
        return self.parents != tuple(range(-1, len(self.nodes) - 1))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Nodes above each."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return tuple(depths)

    @cached_property
    def ancestors(self) -> NDArray[np.bool_]:
        """Which node sees which: itself and those above it, shape (nodes, nodes)."""
        sees = np.eye(len(self.nodes), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


NO_TREE = Tree((), ())
"""What follows a prompt of which nothing but its end is read."""


@dataclass(frozen=True, eq=False)
class PhraseSet:
    """Candidate phrases, and the trees that hold their beginnings, a row each.

    Compared by identity: `TextEncoder.phrases` returns one object per list of actions while it remembers it.
    """

    token_ids: tuple[TokenIds, ...]
    trees: tuple[Tree, ...]
    read_at: tuple[tuple[int, ...], ...]
    """Where each token of each phrase is predicted: places count through all rows, each its prompt's end first."""

    @classmethod
    def of(cls, phrases: Sequence[TokenIds]) -> PhraseSet:
        """Returns the trees of phrases of at least one token each."""
        trees: list[Tree] = []
        read_at: list[tuple[int, ...]] = []
        first_place = 0
        grown: dict[TokenIds, int] = {(): 0}  # place of each beginning in the present tree
        parents: list[int] = []

        def plant() -> None:
            trees.append(Tree(tuple(beginning[-1] for beginning in list(grown)[1:]), tuple(parents)))

        for phrase in phrases:
            beginnings = [phrase[:length] for length in range(1, len(phrase))]
            num_new = sum(beginning not in grown for beginning in beginnings)
            if parents and num_new and len(parents) + num_new > MAX_TREE_NODES:
                plant()
                first_place += len(grown)
                grown, parents = {(): 0}, []
            for beginning in beginnings:
                if beginning not in grown:
                    parents.append(grown[beginning[:-1]] - 1)
                    grown[beginning] = len(parents)
            read_at.append(tuple(first_place + grown[phrase[:length]] for length in range(len(phrase))))
        plant()
        return cls(tuple(phrases), tuple(trees), tuple(read_at))

    @property
    def num_actions(self) -> int:
        return len(self.token_ids)

    @property
    def num_rows(self) -> int:
        return len(self.trees)

    @cached_property
    def num_row_tokens(self) -> int:
        """Tokens that the largest tree adds to a prompt's row."""
        return max(len(tree.nodes) for tree in self.trees)

    @cached_property
    def num_positions(self) -> int:
        """Positions that the model needs behind the prompt: the longest beginning."""
        return max(map(len, self.token_ids)) - 1

    @cached_property
    def one_token_decides(self) -> bool:
        """Returns whether the phrases differ in nothing but their last token, all read at one place."""
        return self.num_rows == 1 and len({phrase[:-1] for phrase in self.token_ids}) == 1

    @cached_property
    def layout(self) -> Layout:
        """Where each token of each phrase is predicted, as arrays."""
        return Layout.of(self)


@dataclass(frozen=True, eq=False)
class Layout:
    """The tokens of A phrases of at most J tokens, and where each is predicted."""

    read_at: NDArray[np.int64]  # (A, J) as in `PhraseSet`
    token_ids: NDArray[np.int64]  # (A, J)
    token_mask: NDArray[np.bool_]  # (A, J) False where a phrase is shorter than J

    @classmethod
    def of(cls, phrases: PhraseSet) -> Layout:
        shape = phrases.num_actions, phrases.num_positions + 1
        read_at, token_ids = np.zeros((2, *shape), dtype=np.int64)
        token_mask = np.zeros(shape, dtype=bool)
        for a, (phrase, places) in enumerate(zip(phrases.token_ids, phrases.read_at, strict=True)):
            token_ids[a, : len(phrase)] = phrase
            token_mask[a, : len(phrase)] = True
            read_at[a, : len(phrase)] = places
        return cls(read_at, token_ids, token_mask)
