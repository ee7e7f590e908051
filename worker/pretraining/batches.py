"""Rows -> the tensors of one training step, in parts of similar length.

A step has rows of all worlds, so that none is unlearned while others are learned; its parts are
sorted by length, so that little is padding. Their gradients add up.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hintwise.token_rows import Branches, TokenRows, right_padded
from worker.pretraining.lines import Row, RowWriter
from worker.pretraining.states import State

PADDING = -1
NUM_PARTS = 3
TYPICAL_TOKENS = 110
"""Tokens of a row with its continuations."""


class Batch(NamedTuple):
    """R rows, and what is to be predicted where they are read."""

    rows: TokenRows
    places: Tensor  # (M,) of the flat R * K places read, those that predict something
    targets: Tensor  # (N,) which of the M predicts
    token_ids: Tensor  # (N,)
    weights: Tensor  # (N,)
    rises: Tensor  # (P, 2) which of the M comes earlier, which later
    rise_ids: Tensor  # (P, 2) the token whose odds rise, and the one against which

    @property
    def num_tokens(self) -> int:
        return self.rows.input_ids.numel()


def collate_rows(rows: Sequence[Row]) -> Batch:
    """Returns rows as one batch; padding stands on the right and is seen by nothing real."""
    input_ids, filled = right_padded([row.token_ids for row in rows])
    branches, _ = right_padded([row.branches for row in rows])
    positions, _ = right_padded([row.positions for row in rows])
    branches[~filled] = PADDING
    before = np.tri(input_ids.shape[1], dtype=bool)
    sees = before & ((branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None]))
    read = [_columns_read(row) for row in rows]
    num_reads = max(map(len, read))
    columns = np.array([[*places, *[places[-1]] * (num_reads - len(places))] for places in read])
    place_of = {
        (i, column): k
        for k, (i, column) in enumerate((i, column) for i, places in enumerate(read) for column in places)
    }
    flat = [i * num_reads + k for i, places in enumerate(read) for k in range(len(places))]
    targets = [(place_of[i, t.column], t.token, t.weight) for i, row in enumerate(rows) for t in row.targets]
    rises = [(i, rise) for i, row in enumerate(rows) for rise in row.rises]
    return Batch(
        TokenRows(
            prefix_ids=torch.zeros(0, dtype=torch.int64),
            input_ids=torch.from_numpy(input_ids),
            read_columns=torch.from_numpy(columns),
            branches=Branches(torch.from_numpy(positions), torch.from_numpy(sees)),
        ),
        places=torch.tensor(flat),
        targets=torch.tensor([place for place, _, _ in targets], dtype=torch.int64),
        token_ids=torch.tensor([token for _, token, _ in targets], dtype=torch.int64),
        weights=torch.tensor([weight for _, _, weight in targets], dtype=torch.float32),
        rises=torch.tensor(
            [(place_of[i, r.earlier], place_of[i, r.later]) for i, r in rises], dtype=torch.int64
        ).reshape(-1, 2),
        rise_ids=torch.tensor([(rise.token, rise.against) for _, rise in rises], dtype=torch.int64).reshape(-1, 2),
    )


def _columns_read(row: Row) -> list[int]:
    columns = {target.column for target in row.targets}
    return sorted(columns.union(*((rise.earlier, rise.later) for rise in row.rises)))


class Batches:
    """States of all worlds, drawn anew for every step.

    Args:
        states: Of the corpus.
        weights: Share of each world.
        writer: Of rows.
        num_tokens: About as many tokens in a step.
        seed: What a step has is a function of it and of the step's number.
    """

    def __init__(
        self, states: Sequence[State], weights: Mapping[str, float], writer: RowWriter, *, num_tokens: int, seed: int
    ) -> None:
        self._writer = writer
        self._num_rows = max(NUM_PARTS, num_tokens // TYPICAL_TOKENS)
        self._seed = seed
        self._by_world: dict[str, list[State]] = {}
        for state in states:
            self._by_world.setdefault(state.world, []).append(state)
        self._weights = [weights[world] for world in self._by_world]

    def batch(self, step: int) -> list[Batch]:
        """Returns the parts of one step."""
        rows = sorted(self.rows(step), key=lambda row: len(row.token_ids))
        ends = [k * len(rows) // NUM_PARTS for k in range(NUM_PARTS + 1)]
        return [collate_rows(rows[start:end]) for start, end in pairwise(ends)]

    def rows(self, step: int) -> list[Row]:
        """Returns the rows of one step."""
        generator = random.Random(f"{self._seed} {step}")
        worlds = generator.choices(list(self._by_world), self._weights, k=self._num_rows)
        return [self._writer.row(generator.choice(self._by_world[world]), generator) for world in worlds]
