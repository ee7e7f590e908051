"""Each prompt is read once, few at a time, and every question gets its own answer."""

from __future__ import annotations

import torch

from worker.algorithms import reading


def test_what_comes_twice_is_read_once_and_never_too_many_together(monkeypatch):
    monkeypatch.setattr(reading, "READ_AT_ONCE", 2)
    weight, forwards = torch.nn.Parameter(torch.ones(2)), []

    def read(few):
        forwards.append(list(few))
        return torch.tensor(few)[:, None] * weight

    told = reading.read_distinct([7, 1, 7, 5, 3, 1], read)
    assert forwards == [[7, 1], [5, 3]]
    assert told.tolist() == [[x, x] for x in (7, 1, 7, 5, 3, 1)]
